"""``edgefold privacy``: what a person reads, and the same as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.spent_file import SpentFile
from aggregator.core.privacy.accounting import epsilon_of
from aggregator.core.privacy.ledger import Step
from tests.aggregator.front_door import Ran, write_config
from tests.aggregator.test_privacy import DELTA, cost, private
from tests.aggregator.workbench import TASK, Bench

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAN = ("privacy", "plan", "--rounds", 6, "--epsilon", 8, "--delta", 1e-3, "--sampling", "none")
DP = f'[task.privacy.dp]\nmode = "central"\nepsilon = 50.0\ndelta = {DELTA}\nclip = 0.5\nnoise_multiplier = 1.0\n'


@pytest.fixture
def ran(make_bench: Callable[..., Bench]) -> tuple[Bench, Path]:
    """A private task with two versions, whose service is not running."""
    bench = make_bench(privacy=private(epsilon=50.0), rounds=3)
    bench.play(bench.device("a"), bench.device("b"), rounds=2)
    config = write_config(bench.folder)
    config.write_text(config.read_text() + DP)
    return bench, config


def test_a_plan_names_the_noise_that_keeps_the_budget(run: Callable[..., Ran]) -> None:
    answer = json.loads(run(*PLAN, "--clients", 400, "--cohort", 400, "--json").out)["plan"]
    step = Step(noise_multiplier=answer["noise_multiplier"], sampling_rate=1.0, count=6)
    assert 7.9 < epsilon_of([step], delta=1e-3) <= 8.0
    assert answer["epsilon_by_round"][-1]["round"] == 6
    assert answer["noise_to_update"] == pytest.approx(answer["noise_multiplier"] * math.sqrt(74_498) / 400)
    assert answer["verdict"] == "learns"


def test_a_plan_for_too_few_devices_says_so_and_how_many_it_takes(run: Callable[..., Ran]) -> None:
    said = run(*PLAN, "--clients", 4, "--cohort", 4)
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == "4 devices, 4 in a round, 6 rounds: whoever comes first takes part"
    assert lines[1].startswith("noise_multiplier = 1.1")
    assert "this will not learn" in said.out
    assert "with 132 devices in every round" in said.out


def test_a_plan_that_counts_on_chance_says_towards_whom_it_does_not_hold(run: Callable[..., Ran]) -> None:
    args = ("--clients", 1000, "--cohort", 50, "--rounds", 5, "--epsilon", 2)
    said = run("privacy", "plan", *args)
    assert "each device is taken with probability 0.05 a round" in said.out
    assert "towards whoever sees which devices are given work" in said.out


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--clients", 4, "--cohort", 8), "--cohort 8 is more than --clients 4"),
        (("--clients", 4, "--cohort", 0), "0 is not in the range"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(run: Callable[..., Ran], args: tuple[object, ...], line: str) -> None:
    said = run(*PLAN, *args)
    assert said.code == 2
    assert line in said.err


def test_the_ledger_has_a_line_for_each_fold(run: Callable[..., Ran], ran: tuple[Bench, Path]) -> None:
    said = run("privacy", "ledger", TASK, "--config", ran[1])
    assert said.code == 0
    assert said.out.splitlines()[-1] == f"epsilon {cost(2):.4g} of 50 at delta 1e-05, for a whole device"
    facts = json.loads(run("privacy", "ledger", TASK, "--config", ran[1], "--json").out)
    assert [one["round"] for one in facts["rounds"]] == [1, 2]
    assert (facts["mode"], facts["epsilon_budget"]) == ("central", 50.0)
    assert facts["epsilon_spent"] == pytest.approx(cost(2))
    assert facts["participation"] == {"devices": 2, "mean_rounds": 2.0, "most_rounds": 2}
    assert "2 devices took part, each in 2 folds on average and 2 at most" in said.out
    assert "seed" not in json.dumps(facts)


def test_the_ledger_is_also_at_the_end_of_a_tasks_own_page(run: Callable[..., Ran], ran: tuple[Bench, Path]) -> None:
    assert f"epsilon {cost(2):.4g} of 50" in run("task", "show", TASK, "--config", ran[1]).out


def test_a_round_that_a_restored_database_forgot_is_shown_as_lost(
    run: Callable[..., Ran], ran: tuple[Bench, Path]
) -> None:
    bench, config = ran
    record = SpentFile(bench.folders.spent(TASK))
    (first, _) = record.read()
    forgotten = dataclasses.replace(first, entry_id="f" * 32, round=3)
    record.add([forgotten])
    facts = json.loads(run("privacy", "ledger", TASK, "--config", config, "--json").out)
    assert [(one["round"], one["lost"]) for one in facts["rounds"]] == [(1, False), (2, False), (3, True)]


def test_a_task_without_a_promise_has_an_empty_ledger(
    run: Callable[..., Ran], make_bench: Callable[..., Bench]
) -> None:
    bench = make_bench()
    bench.play(bench.device("a"), bench.device("b"))
    config = write_config(bench.folder)
    assert run("privacy", "ledger", TASK, "--config", config).out == f"{TASK}: no differential privacy\n"
    said = run("privacy", "ledger", "other", "--config", config)
    assert said.code != 0
    assert said.err.strip().endswith(f"there is no task other; known are: {TASK}")


def test_a_plan_for_devices_that_add_the_noise_states_on_whom_it_counts(run: Callable[..., Ran]) -> None:
    args = (*PLAN[:-2], "--clients", 40, "--cohort", 20, "--distributed", "--corrupt", 0.1, "--dropout", 0.2)
    answer = json.loads(run(*args, "--json").out)
    sums, central = answer["sums"], answer["plan"]
    assert sums["n_honest"] == sums["least_survivors"] - sums["n_corrupt"] > 0
    assert sums["n_corrupt"] == 2
    assert sums["noise_multiplier"] == central["noise_multiplier"]
    assert sums["noise_to_update"] == pytest.approx(central["noise_to_update"] * math.sqrt(20 / sums["n_honest"]))
    assert f"so {sums['n_honest']} are counted on" in run(*args).out
    hopeless = run(*args[:-1], 0.6)
    assert hopeless.code != 0
