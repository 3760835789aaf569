"""Proves a task's history: each version is the fold of its round's stored updates, and no update is in two folds.

Of a round with a secure sum the sum was stored: that the version follows from it is proven, not what went into it.
What was retired (``core.retention``) cannot be folded again: the proof begins at the first round with kept updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from aggregator.core.folding import canonical_order
from aggregator.core.partial_sums import CHUNK
from aggregator.privacy import fold_privately
from aggregator.round_fold import stored_buffer
from aggregator.stored_fold import StoredRound
from aggregator.sum_round import fold_sum
from aggregator.vectors import load_state, to_bytes
from protocol.errors import StorageError

if TYPE_CHECKING:
    from aggregator.adapters.sql_reader import SqlReader
    from aggregator.core.folding import State
    from aggregator.core.privacy.ledger import LedgerEntry
    from aggregator.core.records import RetentionMark, RoundRecord, VersionRecord
    from aggregator.ports import BlobStore
    from aggregator.store_ports import SumStore
    from aggregator.task_setup import TaskSetup

__all__ = ["Verification", "VersionCheck", "verify_task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCheck:
    """One version: ``problem`` is None if its bytes are those of the repeated fold."""

    version: int
    round: int | None
    n_updates: int
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found; ``problems`` are those of the history as a whole."""

    task: str
    versions: tuple[VersionCheck, ...]
    problems: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and all(check.problem is None for check in self.versions)


def verify_task(
    setup: TaskSetup,
    store: SqlReader,
    blobs: BlobStore,
    *,
    fleet: str,
    sums: SumStore | None = None,
    mark: RetentionMark | None = None,
) -> Verification:
    """Fold every version again.

    Raises:
        StorageError: the database cannot be read.
    """
    task = setup.settings.id
    versions, rounds = _provable(store.versions(task), mark), {one.round: one for one in store.rounds(task)}
    checks = []
    for before, this in zip((None, *versions), versions, strict=False):
        try:
            problem = _check(
                setup, store, blobs, fleet=fleet, sums=sums, mark=mark, before=before, this=this, rounds=rounds
            )
        except StorageError as error:
            problem = str(error)
        check = VersionCheck(version=this.version, round=this.round, n_updates=this.n_updates, problem=problem)
        checks.append(check)
    return Verification(task=task, versions=tuple(checks), problems=_history(task, store, versions))


def _provable(versions: tuple[VersionRecord, ...], mark: RetentionMark | None) -> tuple[VersionRecord, ...]:
    """Return the versions from the last one before the first kept updates on."""
    if mark is None or mark.updates_since == 0:
        return versions
    folded = [at for at, one in enumerate(versions) if one.round is not None and one.round >= mark.updates_since]
    return versions[max(0, folded[0] - 1) :] if folded else versions[-1:]


def _check(  # noqa: PLR0913 - one version and its surroundings
    setup: TaskSetup,
    store: SqlReader,
    blobs: BlobStore,
    *,
    fleet: str,
    sums: SumStore | None,
    mark: RetentionMark | None,
    before: VersionRecord | None,
    this: VersionRecord,
    rounds: dict[int, RoundRecord],
) -> str | None:
    kept = load_state(this.state, blobs)  # also checks the blobs against their names
    if before is None:
        return None
    if this.round is None:  # an older version again: a rollback
        older = [one for one in store.versions(setup.settings.id) if one.version < this.version]
        is_copy = any(one.state == this.state for one in older)
        is_provable = mark is None or mark.versions_since == 0  # else the older one may have been retired
        return None if is_copy or not is_provable else "it is no fold, and no older version has its content"
    round_ = rounds[this.round]
    if setup.settings.mode == "async":
        return _check_buffer(setup, store, blobs, fleet=fleet, before=before, this=this, kept=kept, buffer=round_)
    if round_.version != before.version or this.version != before.version + 1:
        return f"round {this.round} was on version {round_.version}, expected {before.version}"
    updates = canonical_order(store.updates(setup.settings.id, this.round))
    summed = None if sums is None else sums.state(setup.settings.id, this.round)
    entry = next((one for one in store.ledger(setup.settings.id) if one.round == this.round), None)
    state = load_state(before.state, blobs)
    if summed is not None:
        again, n_updates = fold_sum(setup, round_, summed, state)
    else:
        again, n_updates = state, len(updates)
        for chunk in _chunkings(n_updates):
            stored = StoredRound(setup, round_, updates, blobs=blobs, fleet=fleet, chunk=chunk)
            again = _again(stored, state, entry, n_params=setup.n_params)
            if _difference(this, kept, again, n_updates=n_updates) is None:
                break
    return _difference(this, kept, again, n_updates=n_updates)


def _check_buffer(  # noqa: PLR0913 - one version and its surroundings
    setup: TaskSetup,
    store: SqlReader,
    blobs: BlobStore,
    *,
    fleet: str,
    before: VersionRecord,
    this: VersionRecord,
    kept: State,
    buffer: RoundRecord,
) -> str | None:
    """Fold a buffer again: it is on the version before, or on an older one if all since then were refused."""
    task, rejected = setup.settings.id, store.rejected(setup.settings.id)
    between = set(range(buffer.version + 1, this.version))
    if this.version != before.version + 1 or not between <= rejected:
        return f"buffer {buffer.round} was on version {buffer.version}, expected {before.version}"
    base = next((one for one in store.versions(task) if one.version == buffer.version), None)
    if base is None:
        return f"buffer {buffer.round} was on version {buffer.version}, which is gone"
    within = store.buffered(task, buffer.round)
    problem = None
    for chunk in _chunkings(len(within)):
        stored = stored_buffer(setup, buffer, within, rejected=rejected, blobs=blobs, fleet=fleet, chunk=chunk)
        problem = _difference(this, kept, stored.fold_into(load_state(base.state, blobs)), n_updates=len(within))
        if problem is None:
            break
    return problem


def _chunkings(n_updates: int) -> tuple[int, ...]:
    """Return the chunk of today, and the one in which everything was added before there were chunks."""
    return (CHUNK,) if n_updates <= CHUNK else (CHUNK, n_updates)


def _difference(this: VersionRecord, kept: State, again: State, *, n_updates: int) -> str | None:
    if n_updates != this.n_updates:
        return f"{this.n_updates} updates were folded, {n_updates} are known"
    differing = [name for name in kept if to_bytes(kept[name]) != to_bytes(again[name])]
    return f"folding again gives other bytes for {', '.join(differing)}" if differing else None


def _again(stored: StoredRound, state: State, entry: LedgerEntry | None, *, n_params: int) -> State:
    return stored.fold_into(state) if entry is None else fold_privately(stored, state, entry, n_params=n_params)[0]


def _history(task: str, store: SqlReader, versions: tuple[VersionRecord, ...]) -> tuple[str, ...]:
    problems = []
    # Above a gap stands an older version again: a service that was restored from a backup (ADR 0019).
    if any(new.version != old.version + 1 and new.round is not None for old, new in pairwise(versions)):
        problems.append("versions are not numbered without gaps")
    folded_rounds = [one.round for one in versions if one.round is not None]
    seen: dict[str, int] = {}  # sealed bytes are new for each update, so equal ones are one update
    for round_ in folded_rounds:
        buffered = store.buffered(task, round_)  # of a round none is
        for update in [one.update for one in buffered] or store.updates(task, round_):
            if update.status != "folded":
                problems.append(f"update {update.update_id.hex()} of round {round_} is {update.status}, not folded")
            if seen.setdefault(update.blob, round_) != round_:
                problems.append(f"one update is in rounds {seen[update.blob]} and {round_}")
    return tuple(problems)
