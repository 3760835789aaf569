"""One chunk of a fold as a job for another process: what it is told, what it does, what it gives back.

Laws: a job is plain values in deterministic CBOR and names its updates by the hashes of their sealed bytes, so it gives
the same sum wherever and however often it is done; what comes back is the raw sum, and its length is checked. A job
holds the keys that open its updates: it goes over a pipe to a child or sealed (``fold_secret``), never plain
over a network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.opening import open_delta
from aggregator.core.partial_sums import BY_EXAMPLES, CHUNK, ChunkSum, Weights, chunk_sums
from protocol import cbor
from protocol.bounds import ENVELOPE_OVERHEAD_BYTES
from protocol.codec import payload_bytes
from protocol.errors import LocalProtocolError
from protocol.messages import Update
from protocol.plan import Codec
from protocol.sealing import TaskKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.core.folding import Pieces
    from aggregator.ports import BlobStore
    from protocol.codec import EncodedVector

__all__ = ["MAX_JOB_BYTES", "ChunkJob", "JobUpdate", "open_stored", "pack_sum", "sum_chunk", "unpack_sum"]

MAX_JOB_BYTES: Final = 1 << 18  # 64 updates of 500 bytes, with room
_COUNT_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUpdate:
    """One stored update."""

    device: str
    update_id: bytes
    blob: str
    round: int  # of its work
    version: int  # that it is based on
    key: int = 0  # which of the job's opens it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkJob:
    """What a worker must know to add one chunk."""

    fleet: str
    task: str
    bundle_id: str
    n_values: int  # of each update and of the sum
    task_keys: tuple[bytes, ...] = field(repr=False)  # open the updates
    updates: tuple[JobUpdate, ...]
    weights: Weights = BY_EXAMPLES

    def pack(self) -> bytes:
        """Return the job as bytes."""
        updates = [[one.device, one.update_id, one.blob, one.round, one.version, one.key] for one in self.updates]
        weights, factors = self.weights, self.weights.factors
        rule = [weights.by_examples, None if factors is None else list(factors), weights.max_norm]
        head = [self.fleet, self.task, self.bundle_id, self.n_values, list(self.task_keys)]
        return cbor.dumps([*head, rule, updates])

    @classmethod
    def unpack(cls, data: bytes) -> ChunkJob:
        """Return the job in ``data``, which is our own.

        Raises:
            LocalProtocolError: it is none.
        """
        try:
            fleet, task, bundle_id, n_values, keys, rule, rows = cbor.loads(data, max_bytes=MAX_JOB_BYTES)
            updates = tuple(
                JobUpdate(device=a, update_id=b, blob=c, round=d, version=e, key=f) for a, b, c, d, e, f in rows
            )
            by_examples, factors, max_norm = rule
            factors = None if factors is None else tuple(factors)
            weights = Weights(by_examples=by_examples, factors=factors, max_norm=max_norm)
        except (ValueError, TypeError) as error:
            raise LocalProtocolError(f"no job of a fold: {error}") from error
        return cls(
            fleet=fleet,
            task=task,
            bundle_id=bundle_id,
            n_values=n_values,
            task_keys=tuple(keys),
            updates=updates,
            weights=weights,
        )


def sum_chunk(job: ChunkJob, blobs: BlobStore) -> ChunkSum:
    """Open the job's updates one by one and return their weighted sum.

    Raises:
        StorageError: a blob is missing or has changed; ``BlobsAwayError`` where it may come back.
        RemoteProtocolError: an update does not open.
    """
    (summed,) = chunk_sums(_deltas(job, blobs), job.n_values, job.weights, chunk=CHUNK)
    return summed


def open_stored(  # noqa: PLR0913 - an update and what its seal is bound to
    one: JobUpdate, blobs: BlobStore, *, fleet: str, task: str, bundle_id: str, key: TaskKey, n_values: int
) -> tuple[EncodedVector, int]:
    """Return a stored update's delta, float32 [n_values], still encoded, and its examples; errors as ``sum_chunk``."""
    # Not the plan's bound: the plan may have changed since the update was taken.
    max_bytes = payload_bytes(Codec(name="float32"), n_values) + ENVELOPE_OVERHEAD_BYTES
    update = Update(
        task=task,
        round=one.round,
        version=one.version,
        bundle_id=bundle_id,
        update_id=one.update_id,
        sealed=blobs.get(one.blob, max_bytes=max_bytes),
    )
    content, delta = open_delta(update, fleet=fleet, device=one.device, key=key, n_params=n_values, max_bytes=max_bytes)
    return delta, content.n_examples


def _deltas(job: ChunkJob, blobs: BlobStore) -> Iterator[tuple[Pieces, int]]:
    keys = [TaskKey(raw) for raw in job.task_keys]
    for one in job.updates:
        yield open_stored(
            one,
            blobs,
            fleet=job.fleet,
            task=job.task,
            bundle_id=job.bundle_id,
            key=keys[one.key],
            n_values=job.n_values,
        )


def pack_sum(summed: ChunkSum) -> bytes:
    """Return a sum as bytes: what it is divided by, then float64, little-endian."""
    return summed.count.to_bytes(_COUNT_BYTES, "little") + summed.total.astype("<f8").tobytes()


def unpack_sum(data: bytes, *, n_values: int) -> ChunkSum:
    """Return the sum in ``data``.

    Raises:
        LocalProtocolError: it is not of ``n_values``.
    """
    if len(data) != _COUNT_BYTES + 8 * n_values:
        raise LocalProtocolError(f"a sum of {len(data)} bytes, expected {_COUNT_BYTES + 8 * n_values}")
    total = np.frombuffer(data, "<f8", offset=_COUNT_BYTES).astype(np.float64)  # [n_values]
    return ChunkSum(total=total, count=int.from_bytes(data[:_COUNT_BYTES], "little"))
