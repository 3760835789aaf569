"""Carries out what operators ask for with ``edgefold task``: commands that wait in the database, read once a second.

Laws: a command is carried out once, in the transaction that marks it; a task whose round is just being folded is left
alone until the next look; what is refused says why in the database, where the command line reads it (docs/adr/0010).
Runs on the service's thread.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from host.logs import event
from protocol.errors import EdgefoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aggregator.core.records import CommandRecord
    from aggregator.runner import Runner
    from aggregator.store_ports import LifecycleStore

__all__ = ["LOOK_EVERY_S", "OpenTask", "Steering"]

LOOK_EVERY_S: Final = 1.0


class OpenTask(Protocol):
    """Makes a created task's runner."""

    def __call__(self, task: str) -> Runner:
        """Return the runner, not yet resumed.

        Raises:
            ConfigError, TrustError, StorageError: its files are not there, or the broker is too small for it.
        """


class Steering:
    """The service's side of ``edgefold task``."""

    def __init__(self, store: LifecycleStore, open_task: OpenTask) -> None:
        """Look for commands in ``store``."""
        self._store, self._open_task = store, open_task
        self._due_s = 0.0

    def tick(self, now_s: float, runners: Mapping[str, Runner], *, add: Callable[[Runner], None]) -> list[Runner]:
        """Carry out what waits; return the runners of which something changed. ``add`` begins a created task."""
        if now_s < self._due_s:
            return []
        self._due_s = now_s + LOOK_EVERY_S
        changed = []
        for command in self._store.waiting():
            if command.verb == "create":
                self._create(command, runners, add)
                continue
            runner = runners.get(command.task)
            if runner is None:
                self._refuse(command, "there is no such task here")
            elif not runner.is_closing:
                why = runner.obey(command)
                if why is not None:
                    self._refuse(command, why)
                else:
                    changed.append(runner)
        return changed

    def _create(self, command: CommandRecord, runners: Mapping[str, Runner], add: Callable[[Runner], None]) -> None:
        if command.task in runners:  # begun at the start, or before a kill
            self._store.done(command.command)
            return
        try:
            runner = self._open_task(command.task)
            add(runner)
        except EdgefoldError as error:
            self._refuse(command, str(error))
            return
        self._store.done(command.command)
        event("task-created", task=command.task)

    def _refuse(self, command: CommandRecord, why: str) -> None:
        self._store.refuse(command, why)
        event("command-refused", level=logging.WARNING, task=command.task, verb=command.verb, why=why)
