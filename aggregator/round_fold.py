"""The fold of a closed round or buffer, whatever its updates are: single ones, under noise or of any age, or one sum.

Reads what is durable and returns values; the caller keeps them. Memory: the strategy's own and one decoded update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aggregator.core.buffer import staleness_of
from aggregator.core.folding import ADAPTER, canonical_order
from aggregator.core.partial_sums import CHUNK
from aggregator.core.privacy.ledger import PrivateFold
from aggregator.privacy import fold_privately
from aggregator.stored_fold import StoredRound
from aggregator.sum_round import fold_sum
from host.logs import event

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aggregator.core.buffer import Buffered
    from aggregator.core.folding import State
    from aggregator.core.records import RoundRecord, UpdateRecord, VersionRecord
    from aggregator.fold_engine import FoldEngine
    from aggregator.ports import BlobStore
    from aggregator.privacy import TaskPrivacy
    from aggregator.task_setup import TaskSetup, World

__all__ = ["Folded", "fold_buffer", "fold_round", "log_fold", "stored_buffer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """The next state, the updates that it came from, and what the privacy ledger learns from it."""

    state: State
    updates: list[UpdateRecord]  # single ones, in their canonical order; none of a secure sum
    n_updates: int  # how many devices are in it
    private: PrivateFold | None = None
    staleness: tuple[int, ...] | None = None  # of a buffer's updates


def fold_round(
    setup: TaskSetup, world: World, round_: RoundRecord, state: State, *, privacy: TaskPrivacy | None
) -> Folded:
    """Return what ``round_`` makes of ``state``; its price is durably spent before it is looked at.

    Raises:
        StorageError: something durable is missing or has changed; nothing was folded.
    """
    updates = canonical_order(world.store.updates(setup.settings.id, round_.round))
    entry = None if privacy is None else privacy.spend(round_.round)
    summed = None if world.sums is None else world.sums.store.state(setup.settings.id, round_.round)
    if summed is not None:
        after, n_updates = fold_sum(setup, round_, summed, state)
        return Folded(state=after, updates=updates, n_updates=n_updates)
    fleet = world.conversation.fleet
    stored = StoredRound(
        setup,
        round_,
        updates,
        blobs=world.blobs,
        fleet=fleet,
        workers=world.fold_workers,
        engine=world.fold_engine,
    )
    if entry is None:
        return Folded(state=stored.fold_into(state), updates=updates, n_updates=len(updates))
    after, next_clip = fold_privately(stored, state, entry, n_params=setup.n_params)
    private = PrivateFold(next_clip=next_clip, keep_seed=world.keep_folded_updates)
    return Folded(state=after, updates=updates, n_updates=len(updates), private=private)


def fold_buffer(setup: TaskSetup, world: World, buffer: RoundRecord, state: State) -> Folded:
    """Return what a buffer makes of ``state``; errors as in ``fold_round``."""
    within = world.store.buffered(setup.settings.id, buffer.round)
    fleet = world.conversation.fleet
    rejected = world.store.rejected(setup.settings.id)
    stored = stored_buffer(
        setup,
        buffer,
        within,
        rejected=rejected,
        blobs=world.blobs,
        fleet=fleet,
        workers=world.fold_workers,
        engine=world.fold_engine,
    )
    updates = [one.update for one in within]
    staleness = tuple(staleness_of(one.version, folded_on=buffer.version, rejected=rejected) for one in within)
    return Folded(state=stored.fold_into(state), updates=updates, n_updates=len(updates), staleness=staleness)


def stored_buffer(  # noqa: PLR0913 - a buffer and where its parts are
    setup: TaskSetup,
    buffer: RoundRecord,
    within: Sequence[Buffered],
    *,
    rejected: Collection[int],
    blobs: BlobStore,
    fleet: str,
    workers: int = 0,
    engine: FoldEngine | None = None,
    chunk: int = CHUNK,
) -> StoredRound:
    """Return a buffer's updates in their canonical order, ready to be folded; ``rejected`` versions make none stale."""
    updates = canonical_order(one.update for one in within)
    based_on = {one.update.update_id: one.version for one in within}
    return StoredRound(
        setup,
        buffer,
        updates,
        blobs=blobs,
        fleet=fleet,
        workers=workers,
        based_on=based_on,
        rejected=rejected,
        engine=engine,
        chunk=chunk,
    )


def log_fold(
    world: World, round_: RoundRecord, version: VersionRecord, state: State, *, staleness: Sequence[int] | None = None
) -> None:
    """Say what became of the round, or of the buffer, with the staleness of its updates."""
    ages: dict[str, Any] = {} if staleness is None else {"staleness": sorted(staleness)}
    summary = world.store.summary(round_.task, round_.round)
    event(
        "version-folded",
        task=round_.task,
        round=round_.round,
        version=version.version,
        n_updates=summary.n_updates,
        seconds=round(version.created_unix_s - round_.opened_unix_s, 3),
        train_s_max=summary.train_s_max,
        bytes_up=summary.bytes_up,
        bytes_down=summary.bytes_down,
        loss=summary.loss,
        **ages,
    )
    # Single values of a strategy's state are there to be watched, such as fedit's aggregation_error.
    figures = {name: float(vector[0]) for name, vector in state.items() if vector.size == 1 and name != ADAPTER}
    if figures:
        event("fold-figures", task=round_.task, version=version.version, figures=figures)
