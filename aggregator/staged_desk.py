"""Decides on what ingest workers staged: by the rules of any message, in the order of coming, on the service's thread.

Laws: a row goes after what it caused is durable, so a kill at any point means at most that it is decided on again, and
an update that was taken is found taken; the bytes of one that is not go after it is marked as refused for good and
before its row does, so that no row whose update may still be taken names bytes that are gone. Memory: ``_LIMIT`` rows.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from aggregator.away import AwayError
from aggregator.core.intake import Refused, Taken, decide_update
from aggregator.core.staging import decide_staged
from host.logs import event
from protocol.errors import LocalProtocolError, StorageError
from protocol.messages import Update

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from aggregator.core.intake import Decision, IntakeContext
    from aggregator.core.staging import Staged
    from aggregator.ports import BlobStore
    from protocol.reasons import Reason

__all__ = ["LOOK_EVERY_S", "StagedDesk", "StagedStore"]

LOOK_EVERY_S: Final = 0.05  # for new ones, while there are none: what an update waits at most, a small query each
_LIMIT: Final = 16  # at once; joins and everything else come in between


class StagedStore(Protocol):
    """What workers staged; every method raises ``StorageError`` if nothing of it could be read or kept."""

    def waiting(self, *, limit: int) -> Sequence[Staged]: ...  # noqa: D102

    def refuse(self, number: int, reason: Reason, detail: str) -> None:
        """Keep that one is refused for good."""

    def tidy(self, number: int, blob: str, *, keep_folded: bool, remove: Callable[[str], None]) -> None:
        """Remove the bytes of a row that was decided on by ``remove``, unless another row needs the same."""

    def done(self, numbers: Sequence[int]) -> None:
        """Forget those that were decided on."""

    def set_terms(self, terms: Mapping[str, str]) -> None:
        """Keep by which settings the service decides from now on."""


class StagedDesk:
    """All that is staged."""

    def __init__(self, store: StagedStore, blobs: BlobStore, *, keep_folded_updates: bool) -> None:
        """Decide on what is in ``store``."""
        self._store, self._blobs, self._keeps_folded = store, blobs, keep_folded_updates
        self._look_at_s = float("-inf")

    def set_terms(self, terms: Mapping[str, str]) -> None:
        """Tell the workers by which settings the service decides, so that none decides by others."""
        self._store.set_terms(terms)

    def wait_s(self, now_s: float) -> float:
        """Return how long there is nothing to look for."""
        return max(0.0, self._look_at_s - now_s)

    def decisions(self, context: IntakeContext, now_s: float) -> Iterator[tuple[Staged, Decision]]:
        """Yield what to do with those that wait; each is done with when the next is asked for.

        Raises:
            StorageError: as it is kept.
        """
        if now_s < self._look_at_s:
            return
        waiting = self._store.waiting(limit=_LIMIT)
        self._look_at_s = now_s if waiting else now_s + LOOK_EVERY_S
        for staged in waiting:
            decision = self._decide(staged, context)
            if decision is not None:
                yield staged, decision
                self._tidy(staged, decision)
        if waiting:
            self._store.done([staged.number for staged in waiting])

    def _decide(self, staged: Staged, context: IntakeContext) -> Decision | None:
        is_open = staged.figures is not None or staged.reason is not None
        decision = decide_staged(staged, context) if is_open else self._open(staged, context)
        if isinstance(decision, Refused) and staged.blob is not None and staged.reason is None:
            self._store.refuse(staged.number, decision.reason, decision.detail)
        return decision

    def _open(self, staged: Staged, context: IntakeContext) -> Decision | None:
        """Do what the worker could not; None if its bytes are gone, so that the device sends them again."""
        if staged.blob is None:
            raise LocalProtocolError("a staged update without bytes or a reason")
        if staged.sealed_bytes > context.max_bytes:
            detail = f"{staged.sealed_bytes} sealed bytes, no task takes more than {context.max_bytes}"
            return Refused(reason="oversize", detail=detail, device=staged.device, update=staged)
        try:
            sealed = self._blobs.get(staged.blob, max_bytes=context.max_bytes)
        except AwayError:
            raise
        except StorageError as error:
            event("staged-update-lost", level=logging.ERROR, device=staged.device, worker=staged.worker, why=str(error))
            return None
        event("staged-update-opened-here", device=staged.device, task=staged.task, worker=staged.worker)
        update = Update(
            task=staged.task,
            round=staged.round,
            version=staged.version,
            bundle_id=staged.bundle_id,
            update_id=staged.update_id,
            sealed=sealed,
        )
        return decide_update(staged.device, update, context)

    def _tidy(self, staged: Staged, decision: Decision) -> None:
        """Remove bytes that nothing needs: a device may send those of an update that was taken under another id."""
        if staged.blob is not None and not isinstance(decision, Taken):
            self._store.tidy(staged.number, staged.blob, keep_folded=self._keeps_folded, remove=self._blobs.remove)
