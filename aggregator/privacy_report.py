"""What ``edgefold privacy`` prints: plans before a task, the ledger while it runs and after."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aggregator.adapters.spent_file import SpentFile
from aggregator.core.privacy.accounting import epsilon_of, noise_for
from aggregator.core.privacy.distributed_planning import plan_sums
from aggregator.core.privacy.ledger import merged
from aggregator.core.privacy.planning import plan_budget
from protocol.errors import ConfigError
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.adapters.sql_reader import SqlReader
    from aggregator.core.privacy.ledger import LedgerEntry, Step
    from aggregator.core.privacy.planning import BudgetPlan, BudgetQuestion
    from aggregator.dp_settings import DpSettings
    from aggregator.folders import Folders

__all__ = ["ledger_facts", "print_ledger_facts", "print_plan", "print_sums_plan"]

_COLUMNS = {
    "round": "round",
    "noise_multiplier": "noise",
    "sampling_rate": "rate",
    "clip": "clip",
    "epsilon": "epsilon",
    "epsilon_unsampled": "if seen",
    "spent": "spent",
    "lost": "lost",
}
_VERDICTS = {
    "learns": "the noise of all rounds together is smaller than what updates that agree add up to: it should learn",
    "learns-less": "the noise is larger than the updates: expect to lose accuracy, compare with a run without",
    "too-noisy": "the noise drowns the updates: this will not learn; take more devices or fewer parameters",
}


class _Accountant:
    """The accountant in this process: a command ends, so its libraries do not stay."""

    def __init__(self) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # orders that did not converge are left out, which is safe

    def epsilon(self, steps: Sequence[Step], *, delta: float) -> float:
        return epsilon_of(steps, delta=delta)

    def noise(
        self, spent: Sequence[Step], *, n_rounds: int, sampling_rate: float, epsilon: float, delta: float
    ) -> float | None:
        return noise_for(spent, n_rounds=n_rounds, sampling_rate=sampling_rate, epsilon=epsilon, delta=delta)


def print_plan(question: BudgetQuestion, *, as_json: bool) -> None:
    """Print what the budget asks for.

    Raises:
        ConfigError: no noise keeps the budget.
    """
    plan = plan_budget(question, _Accountant())
    if plan is None:
        raise ConfigError(f"no noise keeps epsilon = {question.epsilon:g} at delta = {question.delta:g}")
    if as_json:
        click.echo(json.dumps({"question": plain(question), "plan": plain(plan)}, indent=2))
        return
    for line in _plan_lines(question, plan):
        click.echo(line)


def print_sums_plan(question: BudgetQuestion, *, corrupt: float, dropout: float, as_json: bool) -> None:
    """Print what the budget asks for where each device adds a share of the noise.

    Raises:
        ConfigError: no noise keeps the budget, or no secure sum of this cohort does.
    """
    plan = plan_budget(question, _Accountant())
    if plan is None:
        raise ConfigError(f"no noise keeps epsilon = {question.epsilon:g} at delta = {question.delta:g}")
    sums = plan_sums(question, plan, corrupt=corrupt, dropout=dropout)
    if as_json:
        click.echo(json.dumps({"question": plain(question), "plan": plain(plan), "sums": plain(sums)}, indent=2))
        return
    click.echo(
        f"""\
{question.cohort} devices in a round, {question.n_rounds} rounds, each device adds a share of the noise: a sum has at \
least {sums.least_survivors} devices, {sums.n_corrupt} of them may add none, so {sums.n_honest} are counted on
noise_multiplier = {sums.noise_multiplier:.4g}   # epsilon {plan.epsilon_by_round[-1].epsilon:.4g} at delta \
{question.delta:.3g}; sums of {sums.sum_bits} bits
noise against a mean update of {question.n_params} parameters, at the clip: {sums.noise_to_update:.3g} times as long \
in a round, {sums.noise_to_learning:.3g} times over all rounds
with {sums.cohort_needed} devices in every round the two would be as long (a rule of thumb; privacy is \
the accountant's)"""
    )
    for warning in plan.warnings:
        click.echo(f"warning: {warning}")


def ledger_facts(folders: Folders, store: SqlReader, task: str, dp: DpSettings | None) -> dict[str, Any]:
    """Return a task's ledger as plain values; ``rounds`` is empty for a task without differential privacy.

    Raises:
        StorageError: one of the two records cannot be read.
    """
    known = store.ledger(task)
    path = folders.spent(task) if dp is None or dp.spent_file is None else Path(dp.spent_file)
    entries = merged(known, [one for one in SpentFile(path).read() if one.task == task])
    in_database, folds = {one.entry_id for one in known}, store.participation(task).values()
    return {
        "task": task,
        "mode": None if dp is None else dp.mode,
        "epsilon_budget": None if dp is None else dp.epsilon,
        "delta": entries[-1].delta if entries else None if dp is None else dp.delta,
        "epsilon_spent": max((one.epsilon for one in entries), default=0.0),
        "participation": {
            "devices": len(folds),
            "mean_rounds": sum(folds) / len(folds) if folds else 0.0,
            "most_rounds": max(folds, default=0),
        },
        "rounds": [_entry_facts(one, is_lost=one.entry_id not in in_database) for one in entries],
    }


def print_ledger_facts(facts: dict[str, Any]) -> None:
    """Print ``ledger_facts`` as a table."""
    if facts["mode"] is None and not facts["rounds"]:
        click.echo(f"{facts['task']}: no differential privacy")
        return
    from rich.console import Console  # noqa: PLC0415 - 5 MB that only tables need
    from rich.table import Table  # noqa: PLC0415

    rows, columns = facts["rounds"], dict(_COLUMNS)
    if all(one["sampling_rate"] == 1 for one in rows):
        del columns["sampling_rate"], columns["epsilon_unsampled"]
    if not any(one["lost"] for one in rows):
        del columns["lost"]
    table = Table(title=f"{facts['task']}: privacy spent", title_justify="left")
    for heading in columns.values():
        table.add_column(heading)
    for row in rows:
        table.add_row(*(f"{row[one]:.4g}" if isinstance(row[one], float) else str(row[one]) for one in columns))
    Console().print(table)
    took_part = facts["participation"]
    click.echo(
        "who was in which sum is not kept; every sum is charged to all"
        if facts["mode"] == "distributed"
        else f"{took_part['devices']} devices took part, each in {took_part['mean_rounds']:.3g} folds on average and "
        f"{took_part['most_rounds']} at most; every fold is charged to all"
    )
    budget = "no budget in the settings" if facts["epsilon_budget"] is None else f"of {facts['epsilon_budget']:g}"
    click.echo(f"epsilon {facts['epsilon_spent']:.4g} {budget} at delta {facts['delta']:g}, for a whole device")


def _entry_facts(entry: LedgerEntry, *, is_lost: bool) -> dict[str, Any]:
    return {
        "round": entry.round,
        "noise_multiplier": entry.noise_multiplier,
        "sampling_rate": entry.sampling_rate,
        "clip": entry.clip,
        "next_clip": entry.next_clip,
        "cohort": entry.cohort,
        "epsilon": entry.epsilon,
        "epsilon_unsampled": entry.epsilon_unsampled,
        "spent": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.spent_unix_s)),
        "lost": is_lost,  # the database was restored from before this round; it counts all the same
    }


def _plan_lines(question: BudgetQuestion, plan: BudgetPlan) -> list[str]:
    q, last = plan.sampling_rate, plan.epsilon_by_round[-1].epsilon
    taken = "whoever comes first takes part" if q == 1 else f"each device is taken with probability {q:.4g} a round"
    by_round = ", ".join(f"{one.round}: {one.epsilon:.3g}" for one in plan.epsilon_by_round)
    unsampled = (
        f"epsilon {plan.epsilon_unsampled:.3g} towards whoever sees which devices are given work (broker, network): "
        "coins hide nothing from them\n"
    )
    text = f"""\
{question.n_clients} devices, {question.cohort} in a round, {question.n_rounds} rounds: {taken}
noise_multiplier = {plan.noise_multiplier:.4g}   # epsilon {last:.4g} at delta {question.delta:.3g}
epsilon after round {by_round}
{unsampled if q < 1 else ""}\
noise against a mean update of {question.n_params} parameters, at the clip: {plan.noise_to_update:.3g} times as long \
in a round, {plan.noise_to_learning:.3g} times over all rounds
{_VERDICTS[plan.verdict]}
with {plan.cohort_needed} devices in every round, none of them chosen by chance, the two would be as long; a quarter \
of the parameters halves the noise
(what is said about learning is a rule of thumb; the privacy figures are the accountant's)"""
    return [*text.splitlines(), *(f"warning: {one}" for one in plan.warnings)]
