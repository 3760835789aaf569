"""Sums whose devices add the noise: what is in a version, what is charged and when, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.adapters.spent_file import SpentFile
from aggregator.config import TaskSettings
from aggregator.core.privacy.accounting import epsilon_of
from aggregator.core.privacy.ledger import Step
from aggregator.core.rounds import SUM_STATES
from aggregator.dp_settings import AdaptiveSettings, DpSettings
from aggregator.privacy_settings import PrivacySettings, SecureSumSettings
from aggregator.verification import verify_task
from protocol.errors import ConfigError
from protocol.fields import FieldError
from protocol.messages import Work
from protocol.secure_sum.graph import choose
from protocol.sum_round import SumNext
from tests.aggregator.sum_devices import STEPS, SumDevice, make
from tests.aggregator.workbench import FLEET, N_PARAMS, PLAN, TASK, Bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from protocol.sum_round import SumStepName

Z, CLIP, DELTA = 1.0, 0.5, 1e-5


def private(**changes: Any) -> PrivacySettings:
    dp: dict[str, Any] = {"mode": "distributed", "epsilon": 500.0, "delta": DELTA, "clip": CLIP, "noise_multiplier": Z}
    return PrivacySettings(
        level="secure-sum",
        secure_sum=SecureSumSettings(dropout_fraction=0.2, corrupt_fraction=0.0, step_deadline_s=20.0),
        dp=DpSettings(**{**dp, **changes}),
    )


def settings(**changes: Any) -> dict[str, Any]:
    rounds = changes.pop("rounds", 1)
    return {"privacy": private(**changes), "cohort": 5, "min_cohort": 5, "rounds": rounds, "broadcast": "float32"}


def cost(n_rounds: int) -> float:
    return epsilon_of([Step(noise_multiplier=Z, sampling_rate=1.0, count=n_rounds)], delta=DELTA)


class StillDevice(SumDevice):
    """Has nothing to say: what is in the sum is noise."""

    def __init__(self, bench: Bench, name: str) -> None:
        super().__init__(bench, name)
        self.weight = 1

    def vector(self) -> NDArray[np.float32]:
        return np.zeros(N_PARAMS, np.float32)


def still(bench: Bench) -> list[StillDevice]:
    return [StillDevice(bench, f"dev-{one}") for one in "abcde"]


def play(bench: Bench, devices: list[StillDevice], *, gone: dict[str, SumStepName] | None = None) -> None:
    """Play one round; ``gone`` names the first step that a device does not take."""
    gone, before = gone or {}, bench.round
    for one in devices:
        one.join()
        bench.settle()
    for step in STEPS:
        for one in devices:
            last = gone.get(one.name)
            if last is None or STEPS.index(step) < STEPS.index(last):
                one.send(step)
                bench.settle()
        if bench.round == before and bench.round_state == SUM_STATES[step]:  # somebody is missing
            bench.clock.now += 150.0
            bench.settle()


@pytest.mark.parametrize("gone", [{}, {"dev-b": "inputs"}, {"dev-b": "unmasking"}])
def test_versions_have_the_promised_noise_whoever_drops_out_and_are_folded_again(
    make_bench: Callable[..., Bench], gone: dict[str, SumStepName]
) -> None:
    n_rounds = 12
    bench = make_bench(**settings(rounds=n_rounds))
    devices = still(bench)
    for _ in range(n_rounds):
        play(bench, devices, gone=gone)
    assert bench.version == n_rounds
    moves = [
        bench.runner.versions.adapter(i + 1) - bench.runner.versions.adapter(i) for i in range(n_rounds)
    ]  # of float32 [n_params]
    n = 4 if gone == {"dev-b": "inputs"} else 5
    honest = choose(5, corrupt_fraction=0.0, dropout_fraction=0.2, server="lying").min_survivors
    # The sum of n shares of variance (z C)^2 / honest, divided by n for the mean.
    variance = float((np.array(moves, np.float64) ** 2).mean())
    assert variance == pytest.approx((Z * CLIP) ** 2 * n / honest / n**2, rel=6 * (2 / (n_rounds * N_PARAMS)) ** 0.5)
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET, sums=bench.sums).is_good


def test_a_round_is_charged_before_anybody_hears_with_whom_to_mask(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**settings())
    devices = make(bench)
    terms = devices[0].last(Work).secure_sum
    assert terms is not None
    assert (terms.noise_multiplier, terms.weight_cap, terms.clip) == (Z, 1, CLIP)
    seen: list[tuple[int, int]] = []

    def look(name: str) -> None:
        if name == "close_step" and not seen:
            seen.append((len(bench.store.ledger(TASK)), len(SpentFile(bench.folders.spent(TASK)).read())))

    bench.hooks.before = look
    assert bench.store.ledger(TASK) == ()  # rounds to which nobody comes cost nothing
    for one in devices:
        one.send("adverts")
        bench.settle()
    assert seen == [(1, 1)]
    (entry,) = bench.store.ledger(TASK)
    assert (entry.sampling_rate, entry.noise_seed, entry.clip) == (1.0, None, CLIP)
    assert entry.noise_multiplier == pytest.approx(Z)
    assert entry.epsilon == pytest.approx(cost(1), rel=1e-6)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("effect", ["charge", "close_step"])
def test_a_kill_around_the_charge_charges_once(make_bench: Callable[..., Bench], when: str, effect: str) -> None:
    bench = make_bench(**settings())
    devices = still(bench)
    killed = False

    def kill(name: str) -> None:
        nonlocal killed
        if name == effect and not killed:
            killed = True
            raise KeyboardInterrupt

    setattr(bench.hooks, when, kill)
    for one in devices:
        one.join()
        bench.settle()
    for step in STEPS:
        for one in devices:
            one.send(step)
            try:
                bench.settle()
            except KeyboardInterrupt:
                bench.restart()
                bench.settle()
    assert killed
    assert bench.version == 1
    assert len(bench.store.ledger(TASK)) == len(SpentFile(bench.folders.spent(TASK)).read()) == 1


def test_a_sum_that_was_given_up_is_paid_and_the_task_ends_with_its_budget(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**settings(epsilon=cost(2) + 0.01, rounds=5))
    devices = still(bench)
    gone: dict[str, SumStepName] = {f"dev-{one}": "inputs" for one in "abc"}
    play(bench, devices, gone=gone)
    assert [one.state for one in bench.store.rounds(TASK)] == ["abandoned", "open"]
    play(bench, devices, gone=gone)
    assert bench.runner.is_finished
    assert bench.version == 0
    assert [one.round for one in bench.store.ledger(TASK)] == [1, 2]


def test_a_paid_sum_goes_on_after_a_restart_though_nothing_is_left(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**settings(epsilon=cost(1) + 0.01, rounds=5))
    devices = still(bench)
    for one in devices:
        one.join()
        bench.settle()
    for step in STEPS:
        for one in devices:
            one.send(step)
            bench.settle()
        if not bench.runner.is_finished:
            bench.restart()
            bench.settle()
    assert bench.version == 1
    assert bench.runner.is_finished
    assert len(devices[0].all(SumNext)) >= 4


def test_a_budget_that_pays_for_no_round_is_refused(make_bench: Callable[..., Bench]) -> None:
    with pytest.raises(ConfigError, match="does not pay for a round"):
        make_bench(**settings(epsilon=1.0))


def test_noise_without_room_is_refused(make_bench: Callable[..., Bench]) -> None:
    facts = settings()
    wide = dataclasses.replace(facts["privacy"].secure_sum, input_bits=30)
    with pytest.raises(ConfigError, match=r"privacy.dp: .* more than 32 bits"):
        make_bench(**{**facts, "privacy": dataclasses.replace(facts["privacy"], secure_sum=wide)})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"noise_multiplier": None}, "noise_multiplier: needed"),
        ({"adaptive": AdaptiveSettings()}, "neither sampling"),
        ({"sampling": "poisson", "population": 10}, "neither sampling"),
    ],
)
def test_settings_that_devices_cannot_keep_are_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(FieldError, match=word):
        private(**changes)


def test_exactly_the_pair_of_distributed_noise_and_secure_sums_is_taken() -> None:
    facts: dict[str, Any] = {"id": TASK, "bundle": "b", "rounds": 1, "cohort": 5, "min_cohort": 5, "plan": PLAN}
    assert TaskSettings(**facts, privacy=private()).privacy.dp is not None
    with pytest.raises(FieldError, match='"distributed" leaves each update'):
        TaskSettings(**facts, privacy=dataclasses.replace(private(), level="sealed"))
    with pytest.raises(FieldError, match='"central" adds noise where single updates are read'):
        TaskSettings(**facts, privacy=private(mode="central"))
