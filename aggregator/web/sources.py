"""What the HTTP side reads and writes: connections of its own, so that no request waits for the pump or holds it up."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.adapters.sql_access import SqlAccess
from aggregator.adapters.sql_devices import SqlDevices
from aggregator.adapters.sql_lifecycle import SqlLifecycle
from aggregator.adapters.sql_metrics import SqlMetrics
from aggregator.adapters.sql_reader import SqlReader
from aggregator.adapters.sql_reports import SqlReports
from aggregator.adapters.sql_staging import SqlStaging
from aggregator.core.gates import statuses
from aggregator.created_tasks import with_created
from aggregator.web.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.config import Config, TaskSettings
    from aggregator.core.gates import VersionStatus
    from aggregator.core.records import TaskRecord, VersionRecord
    from aggregator.folders import Folders
    from aggregator.pulse import Pulse

__all__ = ["Sources", "open_sources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything that answers are made of; ``store`` is only read."""

    config: Config
    folders: Folders
    store: SqlReader
    lifecycle: SqlLifecycle
    devices: SqlDevices
    access: SqlAccess
    reports: SqlReports
    metrics: SqlMetrics
    staging: SqlStaging
    pulse: Pulse
    started_unix_s: float

    def known(self, task: str) -> TaskRecord:
        """Return a task.

        Raises:
            Problem: 404.
        """
        record = self.store.task(task)
        if record is None:
            raise Problem(404, f"there is no task {task} that has begun")
        return record

    def settings(self, task: str) -> TaskSettings | None:
        """Return a task's settings, or None if it is in the database alone."""
        tasks = with_created(self.config.task, self.lifecycle.created())
        return next((one for one in tasks if one.id == task), None)

    def statuses(self, task: str, versions: Sequence[VersionRecord]) -> dict[int, VersionStatus]:
        """Return where each of the task's newest ``versions`` stands."""
        settings = self.settings(task)
        has_gate = settings is not None and settings.gate is not None
        return statuses(versions, self.lifecycle.standings(task), has_gate=has_gate)


@contextmanager
def open_sources(config: Config, folders: Folders, pulse: Pulse) -> Iterator[Sources]:
    """Open connections to the service's database.

    Raises:
        StorageError: it is not there or not of the newest revision.
    """
    with ExitStack() as stack:
        store, lifecycle = SqlReader(folders.database), SqlLifecycle(folders.database)
        devices, access = SqlDevices(folders.database), SqlAccess(folders.database)
        reports, metrics = SqlReports(folders.database), SqlMetrics(folders.database)
        staging = SqlStaging(folders.database)
        for one in (store, lifecycle, devices, access, reports, metrics, staging):
            stack.callback(one.close)
        yield Sources(
            config=config,
            folders=folders,
            store=store,
            lifecycle=lifecycle,
            devices=devices,
            access=access,
            reports=reports,
            metrics=metrics,
            staging=staging,
            pulse=pulse,
            started_unix_s=time.time(),
        )
