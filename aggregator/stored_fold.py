"""Folds a round or a buffer from what is durable: opens each update again, in the canonical order (docs/adr/0007).

Used by the round that closes and, with kept updates, by ``edgefold task verify``: the same bytes both times.
Updates are opened by ``workers`` threads ahead of the fold, which takes them in order: the same bytes for any number.
Memory: the strategy's own and at most ``2 * workers`` updates, encoded for a fold that is a mean, decoded else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aggregator.chunk_job import ChunkJob, JobUpdate, open_stored
from aggregator.core.buffer import staleness_of
from aggregator.core.folding import FoldContext, Member, fold_checked
from aggregator.core.partial_sums import CHUNK, chunk_sums
from aggregator.fold_engine import FoldEngineError, batched
from aggregator.fold_pool import in_order, n_workers
from host.logs import event

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas, Pieces, State
    from aggregator.core.partial_sums import ChunkSum
    from aggregator.core.records import RoundRecord, UpdateRecord
    from aggregator.fold_engine import FoldEngine
    from aggregator.ports import BlobStore
    from aggregator.task_setup import TaskSetup

__all__ = ["StoredRound"]


class StoredRound:
    """The accepted updates of one round, to be folded."""

    def __init__(  # noqa: PLR0913 - a round and where its parts are
        self,
        setup: TaskSetup,
        round_: RoundRecord,
        updates: Sequence[UpdateRecord],
        *,
        blobs: BlobStore,
        fleet: str,
        workers: int = 0,
        based_on: Mapping[bytes, int] | None = None,
        rejected: Collection[int] = (),
        engine: FoldEngine | None = None,
        chunk: int = CHUNK,
    ) -> None:
        """Take the updates in the order in which they are to be folded; ``workers`` 0 is what pays.

        ``engine`` adds chunks elsewhere where the strategy folds a plain mean; ``chunk`` is another than the usual one
        only to fold an old history again.
        ``based_on`` has the version of each update, by id, in a buffer; in a round it is the round's. ``rejected``
        versions, which no device had, do not count in its staleness.
        """
        self._based_on, self._rejected = based_on or {}, rejected
        self._setup, self._round, self._updates = setup, round_, updates
        self._blobs, self._fleet = blobs, fleet
        self._engine, self._chunk = engine, chunk
        self._workers = n_workers(workers, n_values=setup.max_values)

    def fold_into(self, state: State) -> State:
        """Return the strategy's next state.

        Raises:
            StorageError: a blob is missing or has changed; nothing was folded.
        """
        return self.fold_deltas(state, self)

    def fold_deltas(self, state: State, deltas: Deltas) -> State:
        """Return the strategy's next state from ``deltas``, such as one noisy mean in place of the updates."""
        layout = self._setup.bundle.layout
        context = FoldContext(
            layout=layout,
            round=self._round.round,
            version=self._round.version,
            options=self._setup.options,
            members=tuple(
                Member(device=record.device, staleness=self._staleness_of(record)) for record in self._updates
            ),
        )
        return fold_checked(self._setup.strategy, state, deltas, context)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], int]]:
        """Open the updates one by one, anew each time, since some folds pass more than once.

        Each is float32 [n_params], with controls [2 n_params], and its examples.

        Raises:
            StorageError: a blob is missing or has changed.
        """
        return in_order(self._opened, self._updates, workers=self._workers)

    def chunk_sums(self, n_values: int) -> Iterator[ChunkSum]:
        """Return the chunks' sums in their order, made by the engine as long as it can: the same bytes either way."""
        n_done = 0
        if self._engine is not None and self._chunk == CHUNK and self._are_whole(n_values):
            jobs = [self._job(part, n_values) for part in batched(self._updates, CHUNK)]
            try:
                for one in self._engine.sums(jobs):
                    yield one
                    n_done += 1
            except FoldEngineError as error:
                event("fold-engine-failed", level=logging.WARNING, task=self._round.task, chunk=n_done, why=str(error))
            else:
                return
        rest = in_order(self._encoded, self._updates[n_done * self._chunk :], workers=self._workers)
        yield from chunk_sums(rest, n_values, chunk=self._chunk)

    def _are_whole(self, n_values: int) -> bool:
        """Whether every update holds exactly the values that are added."""
        shapes = (self._setup.shape(one.device, version=self._version_of(one)) for one in self._updates)
        return all(shape.positions is None and shape.n_values == n_values for shape in shapes)

    def _job(self, records: Sequence[UpdateRecord], n_values: int) -> ChunkJob:
        return ChunkJob(
            fleet=self._fleet,
            task=self._round.task,
            round=self._round.round,
            bundle_id=self._setup.bundle.id,
            n_values=n_values,
            task_key=self._setup.keys.of_round(self._round.round).raw,
            updates=tuple(map(self._named, records)),
        )

    def _named(self, record: UpdateRecord) -> JobUpdate:
        version = self._version_of(record)
        return JobUpdate(device=record.device, update_id=record.update_id, blob=record.blob, version=version)

    def _opened(self, record: UpdateRecord) -> tuple[NDArray[np.float32], int]:
        encoded, n_examples = self._encoded(record)
        return encoded[:], n_examples  # float32 [n_params], with controls [2 n_params]

    def _encoded(self, record: UpdateRecord) -> tuple[Pieces, int]:
        shape = self._setup.shape(record.device, version=self._version_of(record))
        delta, n_examples = open_stored(
            self._named(record),
            self._blobs,
            fleet=self._fleet,
            task=record.task,
            round_=record.round,
            bundle_id=self._setup.bundle.id,
            key=self._setup.keys.of_round(record.round),
            n_values=shape.n_values,
        )
        return delta if shape.positions is None else shape.expand(delta[:]), n_examples

    def _staleness_of(self, record: UpdateRecord) -> int:
        return staleness_of(self._version_of(record), folded_on=self._round.version, rejected=self._rejected)

    def _version_of(self, record: UpdateRecord) -> int:
        return self._based_on.get(record.update_id, self._round.version)
