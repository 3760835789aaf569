"""What the steering commands of ``edgefold task`` do: check, write down, wait for the answer.

Laws: nothing but commands and created tasks is written here; what can be known to be wrong is refused before it is
written; the service decides, and what it says is printed. Without a running service a command waits for its start.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import click

from aggregator.adapters.sql_lifecycle import SqlLifecycle
from aggregator.adapters.sql_reader import SqlReader
from aggregator.config import load_config
from aggregator.core.gates import statuses
from aggregator.core.lifecycle import refusal
from aggregator.created_tasks import load_task, to_record, with_created
from aggregator.folders import Folders, upgrade
from aggregator.setup import check_files
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aggregator.config import Config, TaskSettings
    from aggregator.core.gates import VersionStatus
    from aggregator.core.lifecycle import Verb

__all__ = ["TaskDesk", "opened"]

_POLL_S: Final = 0.1


class TaskDesk:
    """Takes an operator's commands for the service of one configuration."""

    def __init__(self, config: Config, store: SqlReader, lifecycle: SqlLifecycle) -> None:
        """Write to ``lifecycle``, read from ``store``."""
        self._config, self._store, self._lifecycle = config, store, lifecycle

    def create(self, file: Path, *, wait_s: float, as_json: bool) -> None:
        """Create the task that ``file`` describes.

        Raises:
            ConfigError, BundleError: the file, or what it names, is no good; or the id is taken.
        """
        number, digest = self.add(load_task(file))
        self._answer(number, wait_s=wait_s, as_json=as_json, digest=digest)

    def add(self, settings: TaskSettings) -> tuple[int, str]:
        """Write a new task down; return the command's number and the SHA-256 of the settings.

        Raises:
            ConfigError, BundleError: what the settings name is no good; or the id is taken.
        """
        known = self._store.task(settings.id)
        is_taken = known is not None or any(one.id == settings.id for one in self._config.task)
        if is_taken:
            raise ConfigError(f"task {settings.id}: one of this id is there already; give the new one another id")
        check_files(settings)
        record = to_record(settings, unix_s=time.time())
        return self._lifecycle.create(record), record.digest

    def ask(self, verb: Verb, task: str, *, version: int | None, wait_s: float, as_json: bool) -> None:
        """Ask the service for ``verb`` and print what came of it.

        Raises:
            ConfigError: see ``order``; or the service refused (the user's fault).
        """
        self._answer(self.order(verb, task, version=version), wait_s=wait_s, as_json=as_json)

    def order(self, verb: Verb, task: str, *, version: int | None) -> int:
        """Write a command down; return its number.

        Raises:
            ConfigError: there is no such task or version, or its state does not allow it.
        """
        known = self._store.task(task)
        if known is None:
            names = ", ".join(one.task for one in self._store.tasks()) or "none"
            raise ConfigError(f"there is no task {task} that has begun; those that have: {names}")
        why = refusal(verb, state=known.state, version=version, statuses=self._statuses(task))
        if why is not None:
            raise ConfigError(f"task {task}: {why}")
        return self._lifecycle.ask(task, verb, version=version, unix_s=time.time())

    def _statuses(self, task: str) -> dict[int, VersionStatus]:
        tasks = with_created(self._config.task, self._lifecycle.created())
        has_gate = any(one.id == task and one.gate is not None for one in tasks)
        versions, standings = self._store.versions(task), self._lifecycle.standings(task)
        return statuses(versions, standings, has_gate=has_gate)

    def _answer(self, number: int, *, wait_s: float, as_json: bool, digest: str | None = None) -> None:
        end_s = time.monotonic() + wait_s
        while (said := self._lifecycle.command(number)).status == "waiting" and time.monotonic() < end_s:
            time.sleep(_POLL_S)
        if said.status == "refused":
            raise ConfigError(f"task {said.task}: {said.why}")
        if as_json:
            facts = {"task": said.task, "command": said.verb, "version": said.version, "status": said.status}
            click.echo(json.dumps({**facts, "settings_sha256": digest} if digest else facts))
        elif said.status == "done":
            click.echo(f"task {said.task}: {said.verb} done")
        else:
            click.echo(f"task {said.task}: {said.verb} is written down; the service does it when it next runs")


@contextmanager
def opened(config_path: Path) -> Iterator[TaskDesk]:
    """Open the database of the service that ``config_path`` configures; a service that never ran gets a new one.

    Raises:
        ConfigError, StorageError: the configuration or the database is no good.
    """
    config = load_config(config_path)
    folders = Folders.of(config)
    if not folders.has_database:
        upgrade(folders.database)
    with ExitStack() as stack:
        store = SqlReader(folders.database)
        stack.callback(store.close)
        lifecycle = SqlLifecycle(folders.database)
        stack.callback(lifecycle.close)
        yield TaskDesk(config, store, lifecycle)
