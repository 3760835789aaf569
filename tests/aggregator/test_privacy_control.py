"""A promise while its operator steers: no command, gate or created task gives a budget back or goes past it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.config import load_config
from aggregator.core.strategies import STRATEGIES
from aggregator.created_tasks import to_record, to_settings
from aggregator.dp_settings import DpSettings
from aggregator.verification import verify_task
from protocol.errors import ConfigError
from tests.aggregator.test_config import SMALL, write
from tests.aggregator.test_privacy import cost, private
from tests.aggregator.test_task_control import gated, pair, statuses, work_round
from tests.aggregator.workbench import FLEET, TASK, Bench, make_bundle, task_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aggregator.core.folding import Strategy
    from aggregator.privacy_settings import PrivacySettings


def pays_for(n_rounds: int, **changes: Any) -> PrivacySettings:
    return private(epsilon=cost(n_rounds) + 0.01, **changes)


def spent_rounds(bench: Bench, task: str = TASK) -> list[int]:
    return [one.round for one in bench.store.ledger(task)]


def is_proven(bench: Bench) -> bool:
    return verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good


def test_a_rollback_gives_no_budget_back(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=pays_for(3), rounds=10)
    devices = pair(bench)
    bench.play(*devices, rounds=2)
    assert bench.command("rollback", 1) == ("done", "")
    assert spent_rounds(bench) == [1, 2]
    bench.restart()  # more versions than folds are no reason to doubt the promise
    bench.settle()
    bench.play(*devices)
    assert bench.runner.is_finished
    assert spent_rounds(bench) == [1, 2, 4]  # round 3 was given up by the rollback
    assert bench.store.ledger(TASK)[-1].epsilon == pytest.approx(cost(3))
    assert bench.version == 4
    assert is_proven(bench)


def test_versions_that_a_gate_rejects_cost_their_folds(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = gated(make_bench, tmp_path, {0: 50, 1: 10, 3: 60}, privacy=pays_for(2), rounds=10)
    devices = pair(bench)
    work_round(bench, *devices)
    assert statuses(bench) == {1: "rejected", 2: "promoted"}
    bench.restart()
    bench.settle()
    work_round(bench, *devices)
    assert spent_rounds(bench) == [1, 2]
    assert bench.runner.is_finished
    assert bench.version == 3
    assert is_proven(bench)


def test_a_paused_task_is_resumed_within_its_budget(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=pays_for(2), rounds=10)
    devices = pair(bench)
    bench.play(*devices)
    bench.command("pause")
    bench.restart()
    assert bench.command("resume") == ("done", "")
    bench.play(*devices)
    assert bench.runner.is_finished
    assert spent_rounds(bench) == [1, 3]


def test_a_task_that_is_resumed_with_a_smaller_budget_ends(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=pays_for(5), rounds=10)
    bench.play(*pair(bench))
    bench.command("pause")
    bench.settings = dataclasses.replace(bench.settings, privacy=pays_for(1))
    bench.restart()
    assert bench.command("resume") == ("done", "")
    assert bench.runner.is_finished
    assert spent_rounds(bench) == [1]


def test_a_round_whose_budget_was_taken_away_is_not_folded(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=pays_for(5), rounds=10, min_cohort=1)
    a, b = pair(bench)
    bench.play(a, b)
    a.join()
    bench.settle()
    assert bench.command("pause") == ("done", "")  # and waits for a
    assert bench.round_state == "open"
    bench.settings = dataclasses.replace(bench.settings, privacy=pays_for(1))
    bench.restart()
    bench.settle()
    assert bench.round_state == "abandoned"
    assert (bench.version, spent_rounds(bench)) == (1, [1])


def test_a_stopped_task_keeps_its_ledger(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=pays_for(5), rounds=10)
    bench.play(*pair(bench))
    assert bench.command("stop") == ("done", "")
    bench.restart()
    assert spent_rounds(bench) == [1]


def test_a_round_that_was_closing_without_a_promise_is_not_folded_under_one(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(rounds=5)
    bench.settle()
    bench.store.start_closing(TASK, 1, "cohort-complete")
    bench.settings = dataclasses.replace(bench.settings, privacy=private())
    with pytest.raises(ConfigError, match="were folded without"):
        bench.restart()


def test_a_created_task_keeps_its_promise(bench: Bench) -> None:
    bundle = make_bundle(bench.folder / "other", seed=3)
    settings = task_settings(bundle, id="second", privacy=pays_for(1, spent_file=str(bench.folder / "apart.spent")))
    record = to_record(settings, unix_s=1.0)
    assert to_settings(record) == settings
    number = bench.lifecycle.create(record)
    bench.clock.now += 2
    bench.settle()
    assert bench.lifecycle.command(number).status == "done"
    runner = bench.service._runners["second"]
    assert runner._privacy is not None
    assert runner.setup.spent is not None


def test_a_created_task_whose_budget_pays_for_nothing_is_refused(bench: Bench) -> None:
    bundle = make_bundle(bench.folder / "other", seed=3)
    settings = task_settings(bundle, id="second", privacy=private(epsilon=0.01))
    number = bench.lifecycle.create(to_record(settings, unix_s=1.0))
    bench.clock.now += 2
    bench.settle()
    answer = bench.lifecycle.command(number)
    assert answer.status == "refused"
    assert "does not pay for a round" in answer.why
    assert bench.store.task("second") is None


def test_central_noise_is_refused_with_a_secure_sum(tmp_path: Path) -> None:
    text = SMALL.replace("min_cohort = 2", "min_cohort = 4") + (
        '[task.privacy]\nlevel = "secure-sum"\n'
        '[task.privacy.dp]\nmode = "central"\nepsilon = 8.0\ndelta = 1e-5\nclip = 0.5\n'
    )
    with pytest.raises(
        ConfigError, match=r'privacy\.dp\.mode: "central" adds noise where single updates are read'
    ) as said:
        load_config(write(tmp_path, text))
    assert "\n" not in str(said.value)


def test_a_relative_spent_file_is_beside_the_settings(tmp_path: Path) -> None:
    dp = '[task.privacy.dp]\nmode = "central"\nepsilon = 8.0\ndelta = 1e-5\nclip = 0.5\nspent_file = "apart.spent"\n'
    (task,) = load_config(write(tmp_path, SMALL + dp)).task
    assert task.privacy.dp == DpSettings(
        mode="central", epsilon=8.0, delta=1e-5, clip=0.5, spent_file=str(tmp_path / "apart.spent")
    )


def test_a_strategy_that_takes_a_noisy_mean_runs_and_can_be_folded_again(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=pays_for(2), rounds=10, strategy="fedadam")
    bench.play(*pair(bench), rounds=2)
    assert bench.runner.is_finished
    assert is_proven(bench)


def runs_anywhere(strategy: Strategy) -> bool:
    """Whether it needs neither options nor an adapter or a plan of its own kind."""
    needs, options = strategy.needs, dataclasses.fields(strategy.options)
    has_defaults = all(one.default is not dataclasses.MISSING for one in options)
    return has_defaults and not needs.open_base and needs.layout == "any" and not needs.plain_sgd


@pytest.mark.parametrize(
    "strategy",
    [name for name, one in STRATEGIES.items() if runs_anywhere(one) and not one.needs.central_dp],
)
def test_a_strategy_that_looks_at_single_deltas_is_refused_with_noise(
    make_bench: Callable[..., Bench], strategy: str
) -> None:
    with pytest.raises(ConfigError, match=f"strategy {strategy} looks at single deltas, and with privacy.dp"):
        make_bench(privacy=private(), strategy=strategy)


def test_a_pause_does_not_end_a_sampled_round(make_bench: Callable[..., Bench]) -> None:
    sampled = private(sampling="poisson", population=6)
    bench = make_bench(privacy=sampled, rounds=2, cohort=3, min_cohort=1)
    assert bench.command("pause") == ("done", "")
    assert bench.round_state == "open"
    assert spent_rounds(bench) == []
    sampling = bench.runner.view().sampling
    assert sampling is not None
    device = next(bench.device(name) for name in "abcdefghij" if sampling.takes(round_=1, device=name))
    device.join()
    bench.settle()
    assert bench.store.is_joined(TASK, 1, device.name)
    bench.clock.now += 101
    bench.settle()
    assert spent_rounds(bench) == [1]
    assert bench.round == 1
    assert bench.runner.view().state == "paused"
