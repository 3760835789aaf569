"""Folds a round or a buffer from what is durable: opens each update again, in the canonical order (docs/adr/0007).

Used by the round that closes and, with kept updates, by ``edgefold task verify``: the same bytes both times.
Updates are opened by ``workers`` threads ahead of the fold, which takes them in order: the same bytes for any number.
Memory: the strategy's own and at most ``2 * workers`` updates, encoded for a fold that is a mean, decoded else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from aggregator.chunk_job import ChunkJob, JobUpdate, open_stored
from aggregator.core.buffer import staleness_of
from aggregator.core.folding import FoldContext, Member, TermsContext, fold_checked
from aggregator.core.partial_sums import BY_EXAMPLES, CHUNK, ChunkSum, chunk_sums
from aggregator.core.update_shape import shape_of
from aggregator.fold_engine import FoldEngineError, batched
from aggregator.fold_pool import in_order, n_workers
from host.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas, Pieces, State
    from aggregator.core.partial_sums import Weights
    from aggregator.core.records import RoundRecord, UpdateRecord
    from aggregator.core.update_shape import UpdateShape
    from aggregator.fold_engine import FoldEngine
    from aggregator.ports import BlobStore
    from aggregator.task_setup import TaskSetup
    from protocol.plan import DeviceTerms

__all__ = ["StoredRound"]

T = TypeVar("T")


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

        ``engine`` adds chunks elsewhere where the strategy folds a weighted sum; ``chunk`` is another than the usual
        one only to fold an old history again.
        ``based_on`` has the version of each update, by id, in a buffer; in a round it is the round's. ``rejected``
        versions, which no device had, do not count in its staleness.
        """
        self._based_on, self._rejected = based_on or {}, rejected
        self._setup, self._round, self._updates = setup, round_, updates
        self._blobs, self._fleet = blobs, fleet
        self._engine, self._chunk = engine, chunk
        self._options = setup.options
        self._shapes: dict[DeviceTerms | None, UpdateShape] = {}
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
            options=self._options,
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
        return self._in_order(self._opened)

    def chunk_sums(self, n_values: int, weights: Weights = BY_EXAMPLES) -> Iterator[ChunkSum]:
        """Return the chunks' sums in their order, made by the engine as long as it can: the same bytes either way.

        What devices did not send is zeros: where all sent the same places, only those are added.
        """
        shape = self._common_shape(n_values)
        if shape is None:
            yield from chunk_sums(self._in_order(self._whole), n_values, weights, chunk=self._chunk)
            return
        for one in self._compact_sums(shape.n_values, weights):
            yield ChunkSum(total=shape.expand(one.total), count=one.count)

    def _compact_sums(self, n_values: int, weights: Weights) -> Iterator[ChunkSum]:
        n_done = 0
        n_updates = len(self._updates)
        is_elsewhere = self._engine is not None and self._engine.takes(n_updates=n_updates, n_values=n_values)
        if self._engine is not None and is_elsewhere and self._chunk == CHUNK:
            parts = enumerate(batched(self._updates, CHUNK))
            jobs = [self._job(part, n_values, weights.part(i * CHUNK, len(part))) for i, part in parts]
            try:
                for one in self._engine.sums(jobs):
                    yield one
                    n_done += 1
            except FoldEngineError as error:
                event("fold-engine-failed", level=logging.WARNING, task=self._round.task, chunk=n_done, why=str(error))
            else:
                return
        first = n_done * self._chunk
        rest = self._in_order(self._encoded, first)
        yield from chunk_sums(rest, n_values, weights.part(first, n_updates), chunk=self._chunk)

    def _common_shape(self, n_values: int) -> UpdateShape | None:
        """Return the shape of every update, if they have one and it is of the values that are added."""
        shapes = [self._shape_of(one) for one in self._updates]
        first = shapes[0] if shapes else None
        is_common = first is not None and first.n_whole == n_values and all(one is first for one in shapes)
        return first if is_common else None

    def _job(self, records: Sequence[UpdateRecord], n_values: int, weights: Weights) -> ChunkJob:
        keys = {one.round: self._setup.keys.of_round(one.round).raw for one in records}
        distinct = sorted(set(keys.values()))
        return ChunkJob(
            fleet=self._fleet,
            task=self._round.task,
            bundle_id=self._setup.bundle.id,
            n_values=n_values,
            task_keys=tuple(distinct),
            updates=tuple(self._named(one, key=distinct.index(keys[one.round])) for one in records),
            weights=weights,
        )

    def _named(self, record: UpdateRecord, *, key: int = 0) -> JobUpdate:
        return JobUpdate(
            device=record.device,
            update_id=record.update_id,
            blob=record.blob,
            round=record.round,
            version=self._version_of(record),
            key=key,
        )

    def _in_order(self, opened: Callable[[UpdateRecord], T], first: int = 0) -> Iterator[T]:
        return in_order(opened, self._updates[first:], workers=self._workers)

    def _opened(self, record: UpdateRecord) -> tuple[NDArray[np.float32], int]:
        whole, n_examples = self._whole(record)
        return whole[:], n_examples  # float32 [n_params], with controls [2 n_params]

    def _whole(self, record: UpdateRecord) -> tuple[Pieces, int]:
        shape = self._shape_of(record)
        delta, n_examples = self._encoded(record)
        return delta if shape.positions is None else shape.expand(delta[:]), n_examples

    def _encoded(self, record: UpdateRecord) -> tuple[Pieces, int]:
        return open_stored(
            self._named(record),
            self._blobs,
            fleet=self._fleet,
            task=record.task,
            bundle_id=self._setup.bundle.id,
            key=self._setup.keys.of_round(record.round),
            n_values=self._shape_of(record).n_values,
        )

    def _shape_of(self, record: UpdateRecord) -> UpdateShape:
        # Kept: a layout's hash takes as long as its tensors are many.
        terms = self._setup.strategy.terms(
            self._options, TermsContext(version=self._version_of(record), device=record.device)
        )
        shape = self._shapes.get(terms)
        if shape is None:
            shape = self._shapes[terms] = shape_of(self._setup.bundle.layout, terms)
        return shape

    def _staleness_of(self, record: UpdateRecord) -> int:
        return staleness_of(self._version_of(record), folded_on=self._round.version, rejected=self._rejected)

    def _version_of(self, record: UpdateRecord) -> int:
        return self._based_on.get(record.update_id, self._round.version)
