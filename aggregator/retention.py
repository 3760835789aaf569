"""Keeps a task's past within its bounds: a little after every round, all at once by ``edgefold serve gc``.

Laws: runs on the service's thread between two events, or under the service's lock, so that no blob is just being put
(one is durable before its row, and has no name in the database until then); rows go before blobs; one call takes out at
most ``LIMIT`` versions and ``LIMIT`` rounds, however long the past is. With ``keep_folded_updates`` nothing goes that
``edgefold task verify`` needs to fold the kept updates again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aggregator.async_settings import oldest_welcome
from aggregator.core.gates import statuses
from aggregator.core.retention import first_kept_update_round, retired_rounds, retired_versions
from host.logs import event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aggregator.config import TaskSettings
    from aggregator.ports import BlobStore
    from aggregator.retention_settings import RetentionSettings
    from aggregator.store_ports import LifecycleStore, RetentionStore, StoreReader

__all__ = ["KEPT_COMMANDS", "LIMIT", "Retention"]

# Versions and rounds that one round's tidying takes out at most: more than a round adds, so that it catches up.
LIMIT: Final = 8
KEPT_COMMANDS: Final = 1000  # answered ones, for the page's list; 100 bytes each


class Retention:
    """Takes out what the settings no longer keep."""

    def __init__(
        self,
        rows: RetentionStore,
        *,
        store: StoreReader,
        lifecycle: LifecycleStore,
        blobs: BlobStore,
        default: RetentionSettings,
        keep_folded_updates: bool,
    ) -> None:
        """Use ``default`` for tasks that have no table of their own."""
        self._rows, self._store, self._lifecycle, self._blobs = rows, store, lifecycle, blobs
        self._default, self._keeps_updates = default, keep_folded_updates

    def tidy(self, settings: TaskSettings, *, limit: int = LIMIT) -> int:
        """Take out what is due of one task; return how many versions and rounds went.

        Raises:
            StorageError: the database or the blobs cannot be written.
        """
        keep, task = settings.retention or self._default, settings.id
        if self._store.task(task) is None:
            return 0
        if self._keeps_updates:
            self._retire_updates(task, keep)
        versions = self._due_versions(settings, keep=keep.versions, limit=limit)
        if versions:
            self._remove(self._rows.retire_versions(task, versions))
        rounds = self._due_rounds(settings, keep=keep.rounds, limit=limit)
        if rounds:
            self._remove(self._rows.retire_rounds(task, rounds))
        if versions or rounds:
            event("past-retired", task=task, n_versions=len(versions), n_rounds=len(rounds))
        self._rows.retire_commands(keep=KEPT_COMMANDS)
        return len(versions) + len(rounds)

    def due(self, settings: TaskSettings) -> tuple[int, int]:
        """Return how many versions and rounds of a task are beyond its bounds."""
        keep, without_limit = settings.retention or self._default, 10**9
        if self._store.task(settings.id) is None:
            return 0, 0
        versions = self._due_versions(settings, keep=keep.versions, limit=without_limit)
        return len(versions), len(self._due_rounds(settings, keep=keep.rounds, limit=without_limit))

    def _retire_updates(self, task: str, keep: RetentionSettings) -> None:
        first = first_kept_update_round(
            self._rows.folded_bytes(task), max_rounds=keep.folded_rounds, max_bytes=keep.folded_bytes
        )
        if first > self._rows.mark(task).updates_since:
            self._remove(self._rows.retire_updates(task, before_round=first))

    def _due_versions(self, settings: TaskSettings, *, keep: int, limit: int) -> tuple[int, ...]:
        task, since = settings.id, self._needed_since(settings)
        versions, standings = self._store.versions(task), self._lifecycle.standings(task)
        based_on = min(one.version for one in self._store.rounds(task) if one.round >= since)
        known = statuses(versions, standings, has_gate=settings.gate is not None)
        return retired_versions(known, keep=keep, based_on=based_on, limit=limit)

    def _due_rounds(self, settings: TaskSettings, *, keep: int, limit: int) -> tuple[int, ...]:
        task, since = settings.id, self._needed_since(settings)
        done = self._rows.mark(task).rounds_since
        found = retired_rounds([one for one in self._store.rounds(task) if one.round >= done], keep=keep, limit=limit)
        return tuple(round_ for round_ in found if round_ < since)

    def _needed_since(self, settings: TaskSettings) -> int:
        """Return the first round that is still needed: that of the first kept updates, or the latest.

        Of an asynchronous task also those whose work is in these buffers, or may still come in.
        """
        task = settings.id
        latest = self._store.latest_round(task)
        since = min(latest.round, self._rows.mark(task).updates_since) if self._keeps_updates else latest.round
        oldest = oldest_welcome(settings, version=latest.version, rejected=self._store.rejected(task))
        if oldest is None:
            return since
        welcome = [one.round for one in self._store.rounds_from(task, version=oldest)]
        return min([since, self._store.oldest_work(task, since=since) or since, *welcome])

    def _remove(self, blobs: Iterable[str]) -> None:
        for name in sorted(blobs):
            self._blobs.remove(name)
