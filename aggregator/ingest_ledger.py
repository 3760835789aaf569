"""What an ingest worker knows of tasks: their settings, their keys, and where they are, as the database has it now.

Laws: it reads and writes nothing; what it says is no older than the last ``refresh``, which comes after the messages
that are judged by it, so that a round which a device has heard of is known; a task that it cannot open, or that the
service runs with other settings, is unknown to it, and the service decides.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from aggregator.core.rounds import FINAL_STATES
from aggregator.store_ledger import StoreLedger
from aggregator.task_view import task_view, terms_of, welcome_works
from host.logs import event
from protocol.errors import BundleError, ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aggregator.core.intake import TaskView
    from aggregator.store_ports import StoreReader
    from aggregator.task_setup import TaskSetup

__all__ = ["IngestLedger", "Terms"]

_ANYBODY: Final = 2**31  # joins are not a worker's affair


class Terms(Protocol):
    """Where the service says by which settings it decides."""

    def terms(self) -> Mapping[str, str]:
        """Return their digest by task."""


class IngestLedger(StoreLedger):
    """Implements ``aggregator.core.intake.Ledger``, from what ``refresh`` was called after."""

    def __init__(self, store: StoreReader, terms: Terms, open_task: Callable[[str], TaskSetup | None]) -> None:
        """Read ``store``; ``open_task`` returns a task's setup with its keys read anew, None for no task of ours."""
        super().__init__(store, self._cached)
        self._terms, self._open_task = terms, open_task
        self._setups: dict[str, tuple[int, TaskSetup]] = {}  # with the round for which its keys were read
        self._views: dict[str, TaskView | None] = {}
        self._ruling: Mapping[str, str] = {}
        self._unopened: set[str] = set()

    def refresh(self) -> None:
        """Forget what may have changed."""
        self._views = {}
        self._ruling = self._terms.terms()

    def is_known(self, task: str) -> bool:
        """Return whether the service has this task, whether or not it can be opened here."""
        return task in self._ruling or self._store.task(task) is not None

    def _cached(self, task: str) -> TaskView | None:
        if task not in self._views:
            self._views[task] = self._look(task)
        return self._views[task]

    def _look(self, task: str) -> TaskView | None:
        record = self._store.task(task)
        if record is None:
            return None
        round_ = self._store.latest_round(task)
        setup = self._setup(task, round_.round)
        if setup is None:
            return None
        works = welcome_works(setup, self._store, round_) if setup.settings.mode == "async" else None
        try:
            view = task_view(setup, round_, state=record.state, n_places=_ANYBODY, works=works)
        except StorageError as error:  # no key for it: it was made after this machine was given keys
            if round_.state not in FINAL_STATES:
                self._say(task, str(error))
            return None
        # What comes while a buffer is folded goes into the next: whether that is open yet is the service's to know.
        return view if works is None else replace(view, round_state="open")

    def _setup(self, task: str, round_: int) -> TaskSetup | None:
        at, setup = self._setups.get(task, (0, None))
        if setup is None or at != round_:  # a key begins with a round
            setup = self._opened(task)
            if setup is None:
                return None
            self._setups[task] = (round_, setup)
        if terms_of(setup) != self._ruling.get(task):
            self._say(task, "the service runs it with other settings than this worker has read")
            del self._setups[task]
            return None
        return setup

    def _opened(self, task: str) -> TaskSetup | None:
        try:
            return self._open_task(task)
        except (ConfigError, BundleError) as error:
            self._say(task, str(error))
            return None

    def _say(self, task: str, why: str) -> None:
        if task not in self._unopened:  # once: an operator's affair, not each message's
            self._unopened.add(task)
            event("ingest-task-not-open", level=logging.WARNING, task=task, why=why)
