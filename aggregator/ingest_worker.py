"""An ingest worker's loop: takes updates off a shared subscription, judges them, stages what it finds, acknowledges.

Laws: a message is acknowledged after what was found of it is durable, bytes and row, or it was counted as nobody's; so
a kill at any point means at most that it comes again, and everything here may come again. A worker answers nobody and
takes nothing into a round: the service does. While more than ``max_staged`` wait for the service, nothing is taken in,
and the broker and the devices wait. One thread, and a few that put bytes. Memory: ``_BATCH_BYTES`` and one message.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from aggregator.core.intake import Refused, decide
from aggregator.core.staging import WorkerRecord, find
from host.link import LinkDown, LinkUp, Received
from host.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.core.intake import IntakeContext
    from aggregator.core.staging import Found
    from aggregator.ingest_ledger import IngestLedger
    from aggregator.ports import BlobStore, Clock
    from host.link import Link
    from protocol.reasons import Reason

__all__ = ["BATCH", "IngestParts", "IngestWorker", "StagingStore"]

BATCH: Final = 32  # messages of one transaction; the broker sends no more before they are acknowledged
_BATCH_BYTES: Final = 16 << 20  # ... and less of large ones
_PUTTERS: Final = 4  # an fsync or a request to object storage is a wait, not work
_HELD_BACK_S: Final = 0.1
_BEAT_EVERY_S: Final = 5.0


class StagingStore(Protocol):
    """Where what was found is kept; every method raises ``StorageError`` if nothing of it could be."""

    def n_waiting(self) -> int: ...  # noqa: D102

    def stage(self, found: Sequence[Found], put: Callable[[Sequence[bytes]], None]) -> int:
        """Keep what is new of ``found``, and its bytes by ``put``; return how many were new."""

    def beat(self, record: WorkerRecord) -> None:
        """Keep that a worker lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestParts:
    """What a worker is made of."""

    name: str
    link: Link
    store: StagingStore
    refuse: Callable[[Reason], None]  # counts a message that nobody can be answered for
    ledger: IngestLedger
    context: IntakeContext
    blobs: BlobStore
    clock: Clock
    max_staged: int
    pause: Callable[[float], object]  # waits so many seconds, or less if it is time to end


class IngestWorker:
    """One worker; ``step`` again and again, ``close`` at the end."""

    def __init__(self, parts: IngestParts) -> None:
        """Prepare; nothing is read or written before ``step``."""
        self._parts = parts
        self._batch: list[Received] = []
        self._n_staged, self._since_unix_s = 0, parts.clock.unix_s()
        self._beat_at_s = float("-inf")
        self._is_held_back = False
        self._putters = ThreadPoolExecutor(_PUTTERS, thread_name_prefix="put")

    def step(self, timeout_s: float) -> int:
        """Take what has come, waiting ``timeout_s`` for it; return how many messages that were.

        Raises:
            AwayError: the database or the blobs went away; the same messages are taken up again by the next step.
            StorageError: they cannot be written at all.
        """
        self._beat()
        if self._holds_back():
            return 0
        if not self._batch:
            self._gather(timeout_s)
        if not self._batch:
            return 0
        self._stage()
        for message in self._batch:
            self._parts.link.acknowledge(message)
        n_messages = len(self._batch)
        self._batch = []
        return n_messages

    def close(self) -> None:
        """Leave the broker; what was not acknowledged comes again."""
        self._putters.shutdown()
        self._parts.link.close()

    def _holds_back(self) -> bool:
        n_waiting = self._parts.store.n_waiting()
        is_full = n_waiting >= self._parts.max_staged
        if is_full != self._is_held_back:
            self._is_held_back = is_full
            name = "ingest-held-back" if is_full else "ingest-goes-on"
            event(name, level=logging.WARNING, worker=self._parts.name, staged=n_waiting)
        if is_full:
            self._parts.pause(_HELD_BACK_S)
        return is_full

    def _gather(self, timeout_s: float) -> None:
        n_bytes = 0
        while len(self._batch) < BATCH and n_bytes < _BATCH_BYTES:
            match self._parts.link.receive(0.0 if self._batch else timeout_s):
                case Received() as message:
                    self._batch.append(message)
                    n_bytes += len(message.payload)
                case LinkUp(mqtt=mqtt):
                    event("ingest-up", mqtt=mqtt, worker=self._parts.name)
                    self._beat_at_s = float("-inf")
                case LinkDown(why=why):
                    event("ingest-down", level=logging.WARNING, why=why, worker=self._parts.name)
                case None:
                    return

    def _stage(self) -> None:
        self._parts.ledger.refresh()  # after the messages came: what they speak of is there by now
        found: list[Found] = []
        for message in self._batch:
            decision = decide(message.topic, message.payload, self._parts.context)
            n_bytes = len(message.payload) + len(message.topic)
            one = find(decision, worker=self._parts.name, n_bytes=n_bytes, is_known=self._parts.ledger.is_known)
            if one is not None:
                found.append(one)
            elif isinstance(decision, Refused):
                self._parts.refuse(decision.reason)
                event(
                    "update-refused",
                    reason=decision.reason,
                    device=(decision.device or "")[:64],
                    worker=self._parts.name,
                    detail=decision.detail,
                )
        if found:
            self._n_staged += self._parts.store.stage(found, self._put)

    def _put(self, blobs: Sequence[bytes]) -> None:
        for _ in self._putters.map(self._parts.blobs.put, blobs):
            pass  # the first error is raised here

    def _beat(self) -> None:
        now_s = self._parts.clock.monotonic_s()
        if not self._parts.link.is_up or now_s - self._beat_at_s < _BEAT_EVERY_S:
            return
        self._beat_at_s = now_s
        self._parts.store.beat(
            WorkerRecord(
                worker=self._parts.name,
                since_unix_s=self._since_unix_s,
                seen_unix_s=self._parts.clock.unix_s(),
                n_staged=self._n_staged,
            )
        )
