"""What ``edgefold task`` prints: tables for people, JSON for programs. Reads the store beside a running service."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from aggregator.adapters.sql_lifecycle import SqlLifecycle
from aggregator.adapters.sql_reader import SqlReader
from aggregator.adapters.sql_retention import SqlRetention
from aggregator.adapters.sql_sums import SqlSums
from aggregator.blob_place import open_blobs
from aggregator.buffer_report import ages_in, buffer_facts, print_buffer_facts, where_buffered
from aggregator.config import load_config
from aggregator.core.gates import statuses
from aggregator.created_tasks import with_created
from aggregator.folders import Folders
from aggregator.metrics_report import device_metrics
from aggregator.privacy_report import ledger_facts, print_ledger_facts
from aggregator.setup import open_task
from aggregator.verification import verify_task
from protocol.errors import ConfigError, TrustError
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from aggregator.config import Config, TaskSettings
    from aggregator.core.gates import VersionStatus
    from aggregator.core.records import Evaluation, RoundRecord, Standing, TaskRecord, UpdateRecord, VersionRecord

__all__ = ["Desk", "opened"]


class Desk:
    """Answers questions about the tasks of one service."""

    def __init__(self, config: Config, folders: Folders, store: SqlReader, lifecycle: SqlLifecycle) -> None:
        """Read from ``store`` and ``lifecycle``."""
        self._config, self._folders, self._store, self._lifecycle = config, folders, store, lifecycle
        self._settings = {one.id: one for one in with_created(config.task, lifecycle.created())}

    def print_tasks(self, *, as_json: bool) -> None:
        """Print one line a task."""
        facts = [self._overview(one) for one in self._store.tasks()]
        if as_json:
            return _print_json({"tasks": facts})
        columns = ["task", "state", "version", "promoted", "round", "pooled_accuracy", "loss"]
        return _print_table("tasks", columns, [[one[name] for name in columns] for one in facts])

    def print_task(self, task: str, *, as_json: bool) -> None:
        """Print everything about one task."""
        facts = self._facts(self._known(task))
        if as_json:
            return _print_json(facts)
        for name in ("rounds", "versions"):
            rows = [{k: v for k, v in one.items() if k not in ("sets", "state_blobs")} for one in facts[name]]
            columns = list(rows[0]) if rows else []
            _print_table(f"{task}: {name}", columns, [list(row.values()) for row in rows])
        if facts["buffer"] is not None:
            print_buffer_facts(facts["buffer"])
        if over := facts["device_metrics"]["over_devices"]:
            told = [[name, *one.values()] for name, one in over.items()]
            _print_table(f"{task}: what devices tell", ["metric", "devices", "mean", "lowest", "highest"], told)
        if facts["privacy"]["rounds"]:
            print_ledger_facts(facts["privacy"])
        return _print_table(f"{task}: refused", ["reason", "count"], [list(one) for one in facts["refusals"].items()])

    def print_updates(self, task: str, *, as_json: bool) -> None:
        """Print which update of which device is in which round."""
        self._known(task)
        rounds = [one.round for one in self._store.rounds(task)]
        places = where_buffered(task, self._store)
        facts = [_update_facts(one, places) for round_ in rounds for one in self._store.updates(task, round_)]
        if as_json:
            return _print_json({"task": task, "updates": facts})
        columns = ["round", "device", "update_id", "status", "n_examples", "buffer", "based_on"]
        return _print_table(f"{task}: updates", columns, [list(one.values()) for one in facts])

    def print_ledger(self, task: str, *, as_json: bool) -> None:
        """Print what a task has spent of its privacy budget."""
        facts = self._ledger(self._known(task).task)
        return _print_json(facts) if as_json else print_ledger_facts(facts)

    def print_verification(self, task: str, *, as_json: bool) -> None:
        """Print whether the history holds.

        Raises:
            TrustError: it does not.
        """
        self._known(task)
        settings = self.settings(task)
        if not self._config.service.keep_folded_updates:
            raise ConfigError(
                "service.keep_folded_updates is false: folded updates are gone, nothing can be folded again"
            )
        setup = open_task(settings, self._folders, make_key=False)
        with (
            closing(open_blobs(self._folders.blobs)) as blobs,
            closing(SqlSums(self._folders.database)) as sums,
            closing(SqlRetention(self._folders.database)) as past,
        ):
            mark = past.mark(task)
            found = verify_task(setup, self._store, blobs, fleet=self._config.service.fleet, sums=sums, mark=mark)
        if as_json:
            _print_json({**plain(found), "ok": found.is_good})
        else:
            rows = [[one.version, one.round, one.n_updates, one.problem or "the same bytes"] for one in found.versions]
            _print_table(f"{task}: folded again", ["version", "round", "n_updates", "result"], rows)
        if not found.is_good:
            n_wrong = sum(one.problem is not None for one in found.versions)
            raise TrustError(
                f"task {task}: {n_wrong} versions are not what their updates fold to"
                + "".join(f"; {one}" for one in found.problems[:5])
            )

    def settings(self, task: str) -> TaskSettings:
        """Return a task's settings.

        Raises:
            ConfigError: neither the configuration nor the database has them (the user's fault).
        """
        settings = self._settings.get(task)
        if settings is None:
            raise ConfigError(f"task {task} is in the database but not in the configuration: its bundle is needed")
        return settings

    def version(self, task: str, version: int) -> VersionRecord:
        """Return a version's record.

        Raises:
            ConfigError: there is no such task or version (the user's fault).
        """
        self._known(task)
        versions = self._store.versions(task)
        found = next((one for one in versions if one.version == version), None)
        if found is None:
            newest = versions[-1].version
            why = f"the newest is {newest}" if version > newest else "it was retired (service.retention.versions)"
            raise ConfigError(f"task {task}: there is no version {version}; {why}")
        return found

    def _known(self, task: str) -> TaskRecord:
        known = self._store.task(task)
        if known is None:
            names = ", ".join(one.task for one in self._store.tasks()) or "none"
            raise ConfigError(f"there is no task {task}; known are: {names}")
        return known

    def _overview(self, task: TaskRecord) -> dict[str, Any]:
        latest, version = self._store.latest_round(task.task), self._store.latest_version(task.task)
        evaluation = self._store.evaluations(task.task).get(version.version)
        return {
            "task": task.task,
            "state": task.state,
            "bundle_id": task.bundle_id,
            "strategy": task.strategy,
            "version": version.version,
            "promoted": max(n for n, status in self._statuses(task.task).items() if status == "promoted"),
            "round": latest.round,
            "round_state": latest.state,
            **_metrics(evaluation),
        }

    def _facts(self, task: TaskRecord) -> dict[str, Any]:
        evaluations = self._store.evaluations(task.task)
        standings, statuses_ = self._lifecycle.standings(task.task), self._statuses(task.task)
        versions = [
            {
                **_version_facts(one, evaluations.get(one.version)),
                **_decision(statuses_[one.version], standings.get(one.version)),
            }
            for one in self._store.versions(task.task)
        ]
        return {
            **self._overview(task),
            "secure_sum": self._sum_terms(task.task),
            "buffer": self._buffer(task.task),
            "rounds": [self._round_facts(one) for one in self._store.rounds(task.task)],
            "versions": versions,
            "refusals": self._store.refusals(task.task),
            "refusals_of_no_task": self._store.refusals(""),
            "privacy": self._ledger(task.task),
            "device_metrics": device_metrics(self._folders, task.task),
        }

    def _sum_terms(self, task: str) -> dict[str, Any] | None:
        """Return what devices are told of a task's secure sums, defaults included; None where it makes none."""
        one = self._settings.get(task)
        terms = None if one is None else one.privacy.terms(one.cohort, one.min_cohort)
        if one is None or terms is None:
            return None
        noise = None if one.privacy.dp is None else one.privacy.dp.noise_multiplier
        return {**dataclasses.asdict(terms), "noise_multiplier": noise}

    def _buffer(self, task: str) -> dict[str, Any] | None:
        settings = self._settings.get(task)
        return None if settings is None else buffer_facts(settings, self._store, self._statuses(task))

    def _ledger(self, task: str) -> dict[str, Any]:
        settings = self._settings.get(task)
        dp = None if settings is None else settings.privacy.dp
        return ledger_facts(self._folders, self._store, task, dp)

    def _statuses(self, task: str) -> dict[int, VersionStatus]:
        settings = self._settings.get(task)
        has_gate = settings is not None and settings.gate is not None
        return statuses(self._store.versions(task), self._lifecycle.standings(task), has_gate=has_gate)

    def _round_facts(self, round_: RoundRecord) -> dict[str, Any]:
        seconds = None if round_.closed_unix_s is None else round(round_.closed_unix_s - round_.opened_unix_s, 3)
        return {
            "round": round_.round,
            "version": round_.version,
            "state": round_.state,
            **dataclasses.asdict(self._store.summary(round_.task, round_.round)),
            "seconds": seconds,
            **({"staleness": ages_in(round_, self._store)} if self._is_async(round_.task) else {}),
        }

    def _is_async(self, task: str) -> bool:
        settings = self._settings.get(task)
        return settings is not None and settings.mode == "async"


@contextmanager
def opened(config_path: Path) -> Iterator[Desk]:
    """Open the store of the service that ``config_path`` configures.

    Raises:
        ConfigError: no such service has run yet.
    """
    config = load_config(config_path)
    folders = Folders.of(config)
    if not folders.has_database:
        raise ConfigError(
            f"{folders.root}: no service has run here yet; start one: edgefold serve --config {config_path}"
        )
    with ExitStack() as stack:
        store = SqlReader(folders.database)
        stack.callback(store.close)
        lifecycle = SqlLifecycle(folders.database)
        stack.callback(lifecycle.close)
        yield Desk(config, folders, store, lifecycle)


def _decision(status: VersionStatus, standing: Standing | None) -> dict[str, Any]:
    if standing is None:
        return {"status": status, "origin": None, "why": "waits for its figures" if status == "candidate" else None}
    return {"status": status, "origin": standing.origin, "why": standing.why}


def _metrics(evaluation: Evaluation | None) -> dict[str, Any]:
    if evaluation is None:
        return {"pooled_accuracy": None, "loss": None}
    return {"pooled_accuracy": evaluation.pooled_accuracy, "loss": evaluation.pooled_loss}


def _version_facts(version: VersionRecord, evaluation: Evaluation | None) -> dict[str, Any]:
    return {
        "version": version.version,
        "round": version.round,
        "n_updates": version.n_updates,
        **_metrics(evaluation),
        "sets": plain(evaluation.sets) if evaluation else {},
        "evaluation_s": evaluation.wall_s if evaluation else None,
        "state_blobs": plain(version.state),
    }


def _update_facts(update: UpdateRecord, places: Mapping[bytes, tuple[int, int]]) -> dict[str, Any]:
    buffer, based_on = places.get(update.update_id, (None, None))  # of a synchronous round: that round, its version
    return {
        "round": update.round,
        "device": update.device,
        "update_id": update.update_id.hex(),
        "status": update.status,
        "n_examples": update.n_examples,
        "buffer": buffer,
        "based_on": based_on,
    }


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, default=lambda one: one.hex()))


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - 5 MB that only tables need
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(_cell(one) for one in row))
    Console().print(table)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.4g}"
        case _:
            return str(value)
