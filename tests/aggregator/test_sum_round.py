"""Secure sums on the service: exact folds, drop-outs and restarts at every step, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.config import TaskSettings
from aggregator.core.rounds import SUM_STATES
from aggregator.privacy_settings import PrivacySettings, SecureSumSettings
from aggregator.sum_round import check_terms
from aggregator.verification import verify_task
from protocol.errors import ConfigError
from protocol.fields import FieldError
from protocol.messages import Receipt, Work
from protocol.sum_round import SumNext
from tests.aggregator.sum_devices import PRIVACY, SETTINGS, STEPS, SumDevice, expected, make
from tests.aggregator.workbench import FLEET, PLAN, TASK, Bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.sum_round import SumStepName, SumTerms


def run(bench: Bench, devices: list[SumDevice], *, gone_from: dict[str, SumStepName] | None = None) -> None:
    """Let the devices take every step; some fall silent, and then the step's deadline passes."""
    gone_from = gone_from or {}
    for step in STEPS:
        is_gone = {one: STEPS.index(last) <= STEPS.index(step) for one, last in gone_from.items()}
        alive = [one for one in devices if not is_gone.get(one.name, False)]
        for one in alive:
            one.send(step)
            bench.settle()
        if bench.round == 1 and bench.round_state == SUM_STATES[step]:  # somebody is missing
            bench.clock.now += 150.0
            bench.settle()


def adapter(bench: Bench) -> np.ndarray[Any, np.dtype[np.float32]]:
    return bench.runner.versions.adapter(bench.version)


def test_the_version_is_the_exact_fold_of_the_quantised_vectors(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**SETTINGS)
    devices = make(bench)
    run(bench, devices)
    assert bench.version == 1
    assert adapter(bench).tobytes() == expected(bench, devices).tobytes()
    assert bench.store.latest_version(TASK).n_updates == 5
    assert bench.store.updates(TASK, 1) == ()
    # The plain weighted mean of what devices trained is within the stated quantisation.
    weights = np.array([one.weight for one in devices])
    plain = sum(one.vector().astype(np.float64) * one.weight for one in devices) / weights.sum()
    from protocol.secure_sum.roster import quantiser_of

    bound = quantiser_of(devices[0].plan()).error_bound(n=5, weight=int(weights.sum()))
    assert np.abs(adapter(bench) - bench.runner.versions.adapter(0) - plain).max() <= bound + 1e-6


@pytest.mark.parametrize("step", STEPS)
def test_a_device_that_falls_silent_at_any_step_is_recovered(
    make_bench: Callable[..., Bench], step: SumStepName
) -> None:
    bench = make_bench(**SETTINGS)
    devices = make(bench)
    run(bench, devices, gone_from={"dev-b": step})
    assert bench.version == 1
    is_in = STEPS.index(step) > STEPS.index("inputs")
    counted = devices if is_in else [one for one in devices if one.name != "dev-b"]
    assert adapter(bench).tobytes() == expected(bench, counted).tobytes()


@pytest.mark.parametrize("step", STEPS[1:])
def test_with_too_few_left_the_round_is_abandoned_and_nothing_is_asked(
    make_bench: Callable[..., Bench], step: SumStepName
) -> None:
    bench = make_bench(**SETTINGS)
    devices = make(bench)
    run(bench, devices, gone_from={f"dev-{one}": step for one in "abc"})
    assert bench.version == 0
    assert [one.state for one in bench.store.rounds(TASK)] == ["abandoned", "open"]
    assert bench.sums.state(TASK, 1) is None
    if step in ("shares", "inputs"):
        assert not [one for one in devices[-1].all(SumNext) if one.step in ("survivors", "agreement")]


@pytest.mark.parametrize("step", STEPS)
def test_a_restart_before_and_after_every_message_changes_nothing(
    make_bench: Callable[..., Bench], step: SumStepName
) -> None:
    bench = make_bench(**SETTINGS)
    devices = make(bench)
    for name in STEPS:
        for one in devices:
            if name == step:
                bench.restart()
                bench.settle()
            one.send(name)
            bench.settle()
            if name == step:
                bench.restart()
                bench.settle()
    assert adapter(bench).tobytes() == expected(bench, devices).tobytes()


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("effect", ["accept", "close_step", "publish", "acknowledge", "fold", "forget"])
@pytest.mark.parametrize("nth", [0, 3, 7, 12])
def test_a_kill_at_any_effect_ends_in_the_same_bytes(
    make_bench: Callable[..., Bench], when: str, effect: str, nth: int
) -> None:
    bench = make_bench(**SETTINGS)
    devices = make(bench)
    seen = -1

    def strike(name: str) -> None:
        nonlocal seen
        if name == effect:
            seen += 1
            if seen == nth:
                raise Killed

    setattr(bench.hooks, when, strike)
    for name in STEPS:
        for one in devices:
            one.send(name)
            settle_through(bench)
        for one in devices:  # what may have been lost is asked for again
            if name in one.sent:
                one.again(name)
                settle_through(bench)
    assert bench.version == 1
    assert adapter(bench).tobytes() == expected(bench, devices).tobytes()


def settle_through(bench: Bench) -> None:
    while True:
        try:
            return bench.settle()
        except Killed:
            while True:
                try:
                    bench.restart()
                    break
                except Killed:
                    continue


def test_the_same_message_again_gets_its_receipt_and_what_followed(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**SETTINGS)
    devices = make(bench)
    for one in devices:
        one.send("adverts")
        bench.settle()
    n_receipts, n_rosters = len(devices[0].all(Receipt)), len(devices[0].all(SumNext))
    devices[0].again("adverts")
    bench.settle()
    assert len(devices[0].all(Receipt)) == n_receipts + 1
    assert devices[0].last(Receipt).status == "accepted"
    rosters = devices[0].all(SumNext)
    assert len(rosters) == n_rosters + 1
    assert rosters[0] == rosters[-1]


def refusal(device: SumDevice) -> str | None:
    return device.last(Receipt).reason


def test_what_a_sum_does_not_take_is_refused_with_its_reason(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**SETTINGS)
    a, b, *others = devices = make(bench)
    a.send("adverts")
    bench.settle()
    other = a.sent["adverts"]
    a.publish(dataclasses.replace(other, update_id=bytes(16)), "sum-step")  # sealed for another id
    bench.settle()
    assert refusal(a) == "bad-seal"
    message = a.message("adverts")
    a.send("adverts", message, update_id=bytes(16))
    bench.settle()
    assert refusal(a) == "duplicate"
    b.send("inputs", b"\xa0")
    bench.settle()
    assert refusal(b) == "out-of-step"
    b.send("adverts", b"\xa0")
    bench.settle()
    assert refusal(b) == "malformed"
    a.update()
    bench.settle()
    assert refusal(a) == "wrong-privacy"
    for one in (b, *others):
        one.send("adverts")
        bench.settle()
    for one in (a, *others):
        one.send("shares")
        bench.settle()
    bench.clock.now += 150.0
    bench.settle()
    b.send("inputs", b"\xa0")
    bench.settle()
    assert refusal(b) == "not-shared"
    for one in others:
        one.send("inputs")
        bench.settle()
    bench.clock.now += 150.0
    bench.settle()
    a.send("consents", a_consent())
    bench.settle()
    assert refusal(a) == "not-survived"
    for name in ("consents", "unmasking"):
        for one in others:
            one.send(name)  # type: ignore[arg-type]
            bench.settle()
    assert adapter(bench).tobytes() == expected(bench, others).tobytes()
    assert len(devices) == 5


def a_consent() -> bytes:
    from protocol.secure_sum.messages import Consent, pack

    return pack(Consent(signature=bytes(64)))


def test_a_masked_input_for_another_step_or_task_without_sums_is_refused(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(cohort=2, min_cohort=2)
    device = SumDevice(bench, "dev-a")
    device.join()
    bench.settle()
    assert device.last(Work).secure_sum is None
    device.send("adverts", b"\xa0")
    bench.settle()
    assert refusal(device) == "wrong-privacy"


def test_a_device_whose_certificate_names_no_key_is_told_so(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**SETTINGS)
    bench.chain_of = lambda device: () if device == "dev-a" else (b"leaf of " + device.encode(), b"issuer")
    bench.restart()
    bench.settle()
    first, *others = make(bench)
    first.send("adverts")
    bench.settle()
    assert refusal(first) == "no-certificate"
    for one in others:
        one.send("adverts")
        bench.settle()
    bench.clock.now += 150.0
    bench.settle()
    (roster,) = others[0].all(SumNext)
    assert roster.certificates == tuple(b"leaf of " + one.name.encode() for one in others[1:])
    assert roster.issuers == (b"issuer",)


def test_a_sum_begun_on_other_terms_is_not_gone_on_with(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**SETTINGS)
    devices = make(bench)
    for one in devices:
        one.send("adverts")
        bench.settle()
    assert bench.round_state == "sharing"
    other = dataclasses.replace(PRIVACY, secure_sum=dataclasses.replace(PRIVACY.secure_sum, clip=2.0))
    for privacy in (other, PrivacySettings()):
        bench.settings = dataclasses.replace(bench.settings, privacy=privacy)
        bench.restart()
        bench.settle()
    assert [one.state for one in bench.store.rounds(TASK)] == ["abandoned", "open"]


def test_a_fold_of_one_is_verified(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**SETTINGS)
    run(bench, make(bench))
    found = verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET, sums=bench.sums)
    assert found.is_good
    again = make_bench("again", **SETTINGS)
    again.keep_folded_updates = False
    again.restart()
    run(again, make(again))
    assert again.sums.state(TASK, 1) is None


def test_settings_that_no_sum_withstands_are_refused_at_the_start() -> None:
    facts: dict[str, Any] = {"id": TASK, "bundle": "b", "rounds": 1, "cohort": 5, "privacy": PRIVACY, "plan": PLAN}
    with pytest.raises(FieldError, match="min_cohort: a secure sum takes 3 to 1000 devices"):
        TaskSettings(**facts, min_cohort=2)
    wide = PrivacySettings(level="secure-sum", secure_sum=SecureSumSettings(input_bits=31))
    with pytest.raises(ConfigError, match=r"task sentiment: privacy.secure_sum: .* need sums of"):
        check_terms(TASK, terms(wide))
    hopeless = PrivacySettings(level="secure-sum", secure_sum=SecureSumSettings(dropout_fraction=0.6))
    with pytest.raises(ConfigError, match="shares are needed"):
        check_terms(TASK, terms(hopeless))


def terms(privacy: PrivacySettings) -> SumTerms:
    found = privacy.terms(100, 3)
    assert found is not None
    return found


def test_a_strategy_that_looks_at_single_deltas_is_refused_with_a_secure_sum(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aggregator import setup
    from aggregator.core.folding import Needs
    from aggregator.core.strategies import STRATEGIES

    robust = dataclasses.replace(STRATEGIES["fedavg"], needs=Needs(secure_sum=False, central_dp=False))
    monkeypatch.setattr(setup, "STRATEGIES", {"fedavg": robust})
    with pytest.raises(ConfigError, match="looks at single deltas"):
        make_bench(**SETTINGS)


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_a_rollback_withdraws_a_sum_at_any_step(make_bench: Callable[..., Bench], n_steps: int) -> None:
    bench = make_bench(**{**SETTINGS, "rounds": 3})
    devices = make(bench)
    run(bench, devices)
    for one in devices:
        one.join()
        bench.settle()
    for step in STEPS[:n_steps]:
        for one in devices:
            one.send(step)
            bench.settle()
    assert bench.store.rounds(TASK)[1].state not in {"open", "closing", "folded"}
    assert bench.command("rollback", 0) == ("done", "")
    assert [one.state for one in bench.store.rounds(TASK)] == ["folded", "abandoned", "open"]
    assert bench.sums.state(TASK, 2) is None
    assert bench.adapter_bytes(2) == bench.adapter_bytes(0)


def test_a_task_that_is_stopped_at_a_step_of_its_sum_folds_nothing_more(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**SETTINGS)
    for one in make(bench):
        one.send("adverts")
        bench.settle()
    assert bench.command("stop") == ("done", "")
    assert [one.state for one in bench.store.rounds(TASK)] == ["abandoned"]
    assert bench.sums.state(TASK, 1) is None
    assert bench.version == 0


def test_a_task_that_is_given_fewer_rounds_gives_up_the_sum_that_it_was_at(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**{**SETTINGS, "rounds": 3})
    devices = make(bench)
    run(bench, devices)
    for one in devices:
        one.join()
        bench.settle()
    for one in devices:
        one.send("adverts")
        bench.settle()
    assert bench.round_state == "sharing"
    bench.settings = dataclasses.replace(bench.settings, rounds=1)
    bench.restart()
    assert bench.runner.is_finished
    assert [one.state for one in bench.store.rounds(TASK)] == ["folded", "abandoned"]
    assert bench.sums.state(TASK, 2) is None
