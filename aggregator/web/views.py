"""What the interface answers when it is asked: plain values for JSON, times as seconds of Unix time.

Laws: reads only; every list has a bound; a device's own figures are shown to whoever may log in, its keys and data are
not there to be shown.
"""

from __future__ import annotations

import dataclasses
import time
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aggregator.adapters.registry import DeviceRegistry
from aggregator.privacy_report import ledger_facts
from aggregator.web.probes import free_bytes
from aggregator.web.problems import Problem
from protocol.fields import plain

if TYPE_CHECKING:
    from aggregator.core.enrolment import DeviceRecord
    from aggregator.core.records import CommandRecord, Evaluation, TaskRecord
    from aggregator.web.sources import Sources

__all__ = [
    "command_facts",
    "device_figures_view",
    "device_view",
    "devices_view",
    "privacy_view",
    "refusals_view",
    "rounds_view",
    "service_view",
    "task_view",
    "tasks_view",
    "versions_view",
]


def service_view(sources: Sources) -> dict[str, Any]:
    """Return how the service is."""
    now_s = time.monotonic()
    return {
        "fleet": sources.config.service.fleet,
        "edgefold": installed_version("edgefold"),
        "started_unix_s": sources.started_unix_s,
        "now_unix_s": time.time(),
        "is_turning": sources.pulse.is_turning(now_s),
        "is_link_up": sources.pulse.is_link_up,
        "disk_free_bytes": free_bytes(sources.folders),
        "devices": sources.reports.totals().devices,
        "refusals_of_no_task": sources.store.refusals(""),
    }


def tasks_view(sources: Sources) -> dict[str, Any]:
    """Return one overview a task."""
    return {"tasks": [_overview(sources, one) for one in sources.store.tasks()]}


def task_view(sources: Sources, task: str) -> dict[str, Any]:
    """Return a task's overview and its settings."""
    record, settings = sources.known(task), sources.settings(task)
    shown = (
        None if settings is None else {k: v for k, v in plain(settings).items() if k not in ("bundle", "evaluation")}
    )
    sets = [] if settings is None or settings.evaluation is None else sorted(settings.evaluation.sets)
    commands = [command_facts(one) for one in sources.reports.commands(task, limit=20)]
    return {**_overview(sources, record), "settings": shown, "evaluation_sets": sets, "commands": commands}


def rounds_view(sources: Sources, task: str, *, limit: int, before: int | None) -> dict[str, Any]:
    """Return a task's newest rounds, newest first."""
    sources.known(task)
    rounds = []
    for one in sources.reports.rounds(task, limit=limit, before=before):
        record = dataclasses.asdict(one.record)
        del record["task"]
        rounds.append({**record, **dataclasses.asdict(one.summary)})
    return {"rounds": rounds}


def versions_view(sources: Sources, task: str, *, limit: int, before: int | None) -> dict[str, Any]:
    """Return a task's newest versions with figures and verdicts, newest first."""
    sources.known(task)
    versions = sources.reports.versions(task, limit=limit, before=before)
    if not versions:
        return {"versions": []}
    evaluations = sources.store.evaluations(task, since=versions[-1].version)
    standings = sources.lifecycle.standings(task)
    newest = sources.store.latest_version(task)
    statuses = sources.statuses(task, [*versions, newest])
    shown = []
    for one in versions:
        standing = standings.get(one.version)
        shown.append(
            {
                "version": one.version,
                "round": one.round,
                "n_updates": one.n_updates,
                "created_unix_s": one.created_unix_s,
                "status": statuses[one.version],
                "why": None if standing is None else standing.why,
                "origin": None if standing is None else standing.origin,
                **_figures(evaluations.get(one.version)),
            }
        )
    return {"versions": shown}


def refusals_view(sources: Sources, task: str) -> dict[str, Any]:
    """Return how often each reason was counted for a task."""
    sources.known(task)
    return {"refusals": sources.store.refusals(task)}


def device_figures_view(sources: Sources, task: str, *, limit: int) -> dict[str, Any]:
    """Return what devices told of how they learn, over each of the newest ``limit`` rounds in which one did."""
    sources.known(task)
    return {"figures": [dataclasses.asdict(one) for one in sources.metrics.by_round(task, limit=limit)]}


def privacy_view(sources: Sources, task: str) -> dict[str, Any]:
    """Return what a task promises its devices and, where it is known, what was spent."""
    sources.known(task)
    settings = sources.settings(task)
    if settings is None:
        return {"level": "unknown", "secure_sum": None, "sample_dp": None, "budget": None}
    sums = plain(settings.privacy.secure_sum) if settings.privacy.is_secure_sum else None
    dp = None if settings.plan.dp is None else plain(settings.plan.dp)
    facts = ledger_facts(sources.folders, sources.store, task, settings.privacy.dp)
    # Of whole devices; that of single examples is each device's own affair.
    names = ("mode", "epsilon_budget", "epsilon_spent", "delta")
    budget = (
        None if facts["mode"] is None else {name: facts[name] for name in names} | {"n_rounds": len(facts["rounds"])}
    )
    return {"level": settings.privacy.level, "secure_sum": sums, "sample_dp": dp, "budget": budget}


def devices_view(sources: Sources, *, limit: int, after: str) -> dict[str, Any]:
    """Return devices by name, those behind ``after``, and whether there are more."""
    records = {one.device: one for one in sources.devices.devices()}
    names = sorted({*records, *_in_file(sources), *sources.reports.participants()})
    page = [name for name in names if name > after][: limit + 1]
    shown, more = page[:limit], len(page) > limit
    activity = sources.reports.activity(shown)
    devices = [_device(name, records.get(name), activity.get(name)) for name in shown]
    return {"devices": devices, "n_devices": len(names), "next": shown[-1] if more else None}


def device_view(sources: Sources, device: str) -> dict[str, Any]:
    """Return everything about one device.

    Raises:
        Problem: 404.
    """
    record, activity = sources.devices.device(device), sources.reports.activity([device]).get(device)
    if record is None and activity is None and device not in _in_file(sources):
        raise Problem(404, f"there is no device {device}")
    certificate = next(iter(sources.devices.certificates(device)), None)
    return {
        **_device(device, record, activity),
        "verify_key": record.verify_key.hex() if record is not None else None,
        "signs_twice": record is not None and record.second_key is not None,
        "certificate_serial": certificate.serial if certificate is not None else None,
        "certificate_ends_unix_s": certificate.ends_unix_s if certificate is not None else None,
    }


def command_facts(command: CommandRecord) -> dict[str, Any]:
    """Return what became of a command."""
    return dataclasses.asdict(command)


def _in_file(sources: Sources) -> list[str]:
    registry = sources.config.devices.registry
    return [] if registry is None else list(DeviceRegistry(Path(registry)).names())


def _device(name: str, record: DeviceRecord | None, activity: Any) -> dict[str, Any]:  # noqa: ANN401 - DeviceActivity
    empty = {"n_joined": 0, "n_updates": 0, "n_examples": 0, "bytes_up": 0, "bytes_down": 0, "last_seen_unix_s": None}
    return {
        "device": name,
        "status": "file" if record is None else record.status,
        "since_unix_s": None if record is None else record.since_unix_s,
        **(empty if activity is None else dataclasses.asdict(activity)),
    }


def _overview(sources: Sources, task: TaskRecord) -> dict[str, Any]:
    rounds = sources.reports.rounds(task.task, limit=1)
    version, settings = sources.store.latest_version(task.task), sources.settings(task.task)
    evaluations = sources.store.evaluations(task.task, since=max(0, version.version - 20))
    measured = evaluations[max(evaluations)] if evaluations else None
    folded = sources.reports.totals_of(task.task)
    return {
        "task": task.task,
        "state": task.state,
        "bundle_id": task.bundle_id,
        "strategy": task.strategy,
        "privacy": "unknown" if settings is None else settings.privacy.level,
        "n_rounds": None if settings is None else settings.rounds,
        "cohort": None if settings is None else settings.cohort,
        "version": version.version,
        "measured_version": None if measured is None else measured.version,
        **_figures(measured),
        **folded,
        "round": None if not rounds else rounds[0].record.round,
        "round_state": None if not rounds else rounds[0].record.state,
        "round_n_participants": 0 if not rounds else rounds[0].summary.n_participants,
        "round_n_updates": 0 if not rounds else rounds[0].summary.n_updates,
    }


def _figures(evaluation: Evaluation | None) -> dict[str, Any]:
    if evaluation is None:
        return {"pooled_accuracy": None, "loss": None, "sets": {}}
    sets = {name: dataclasses.asdict(score) for name, score in evaluation.sets.items()}
    return {"pooled_accuracy": evaluation.pooled_accuracy, "loss": evaluation.pooled_loss, "sets": sets}
