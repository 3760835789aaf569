"""What the intake rules ask of the past, read from the store: for the service and for its ingest workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.core.intake import TaskView
    from aggregator.core.records import UpdateRecord
    from aggregator.store_ports import StoreReader

__all__ = ["StoreLedger"]


class StoreLedger:
    """Implements ``aggregator.core.intake.Ledger``."""

    def __init__(self, store: StoreReader, view: Callable[[str], TaskView | None]) -> None:
        """Read ``store``; ``view`` returns a task as it is now, None for one that is not here."""
        self._store, self._view = store, view

    def view(self, task: str) -> TaskView | None:
        """Return the task, or None if there is no such one here."""
        return self._view(task)

    def is_joined(self, task: str, round_: int, device: str) -> bool:
        """Return whether the device was handed work for this round."""
        return self._store.is_joined(task, round_, device)

    def n_joined(self, task: str, round_: int) -> int:
        """Return how many devices were."""
        return self._store.n_joined(task, round_)

    def taken(self, update_id: bytes) -> UpdateRecord | None:
        """Return the accepted update with this id."""
        return self._store.taken(update_id)

    def taken_from(self, task: str, round_: int, device: str) -> UpdateRecord | None:
        """Return the device's accepted update of this round."""
        return self._store.taken_from(task, round_, device)
