"""Takes a task's past out of the database, and adds up what must still be known of it.

Laws: each writing method is one transaction, and returns the blobs that no row names any more: rows go first, so that a
crash leaves blobs without a row (removed at the next start) and never a row without its blob; counts and each device's
sums are the same before and after; the privacy ledger is never touched, and the rounds in it stay. What may go is
decided in ``core.retention``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, func, select

from aggregator.adapters import sql_buffers
from aggregator.adapters.sql_blob_names import state_blobs
from aggregator.adapters.sql_database import SqlDatabase, insert_into
from aggregator.adapters.tables import (
    BUFFERED,
    COMMANDS,
    DEVICE_METRICS,
    EVALUATIONS,
    PARTICIPANTS,
    PAST_DEVICES,
    PRIVACY_LEDGER,
    RETENTION,
    ROUNDS,
    STANDINGS,
    SUM_MESSAGES,
    SUM_STEPS,
    SUMS,
    UPDATES,
    VERSIONS,
)
from aggregator.core.records import RetentionMark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

__all__ = ["SqlRetention"]


_IN_BUFFER: Final = BUFFERED.c.update_id == UPDATES.c.update_id


class SqlRetention(SqlDatabase):
    """Implements ``aggregator.store_ports.RetentionStore``; ``close`` it at the end."""

    def mark(self, task: str) -> RetentionMark:
        """Return what was retired of a task."""
        with self._reading() as connection:
            return _mark(connection, task)

    def folded_bytes(self, task: str) -> tuple[tuple[int, int], ...]:
        """Return each folded round whose updates or sum may still be there and what they take, oldest first."""
        with self._reading() as connection:
            since = _mark(connection, task).updates_since
            fold = sql_buffers.fold_of()
            is_kept = and_(UPDATES.c.task == task, UPDATES.c.status == "folded", fold >= since)
            updates = select(fold, func.sum(UPDATES.c.n_bytes)).outerjoin_from(UPDATES, BUFFERED, _IN_BUFFER)
            updates = updates.where(is_kept).group_by(fold)
            sums = select(SUMS.c.round, func.length(SUMS.c.state)).where(SUMS.c.task == task, SUMS.c.round >= since)
            found = {round_: int(n_bytes) for round_, n_bytes in connection.execute(updates)}
            found |= {round_: int(n_bytes) for round_, n_bytes in connection.execute(sums)}
        return tuple(sorted(found.items()))

    def retire_versions(self, task: str, versions: Sequence[int]) -> set[str]:
        """Forget versions with their metrics and verdicts; return the blobs that nothing names any more."""
        with self._writing() as connection:
            these = and_(VERSIONS.c.task == task, VERSIONS.c.version.in_(versions))
            states = connection.execute(select(VERSIONS.c.state).where(these)).scalars().all()
            for table in (EVALUATIONS, STANDINGS, VERSIONS):
                connection.execute(table.delete().where(table.c.task == task, table.c.version.in_(versions)))
            _set_mark(connection, task, versions_since=max(versions) + 1)
            return {name for state in states for name in json.loads(state).values()} - state_blobs(connection)

    def retire_rounds(self, task: str, rounds: Sequence[int]) -> set[str]:
        """Add up ended rounds and forget their rows; return the blobs of their updates."""
        with self._writing() as connection:
            connection.execute(_added_up(connection, task, rounds))
            blobs = select(UPDATES.c.blob).where(UPDATES.c.task == task, UPDATES.c.round.in_(rounds))
            names = set(connection.execute(blobs).scalars())
            sql_buffers.forget(connection, task, rounds)
            for table in (DEVICE_METRICS, UPDATES, SUM_MESSAGES, SUM_STEPS, SUMS, PARTICIPANTS):
                connection.execute(table.delete().where(table.c.task == task, table.c.round.in_(rounds)))
            _forget_rounds(connection, task, rounds)
            return names

    def retire_updates(self, task: str, *, before_round: int) -> set[str]:
        """Forget the sums of older folded rounds; return the blobs of those rounds' updates, whose rows stay."""
        with self._writing() as connection:
            mark = _mark(connection, task)
            is_old = [
                UPDATES.c.task == task,
                UPDATES.c.status == "folded",
                sql_buffers.fold_of() >= mark.updates_since,
                sql_buffers.fold_of() < before_round,
            ]
            old = select(UPDATES.c.blob).outerjoin_from(UPDATES, BUFFERED, _IN_BUFFER).where(*is_old)
            names = set(connection.execute(old).scalars())
            connection.execute(SUMS.delete().where(SUMS.c.task == task, SUMS.c.round < before_round))
            _set_mark(connection, task, updates_since=before_round)
            return names

    def retire_commands(self, *, keep: int) -> None:
        """Forget all but the newest of the commands that were answered."""
        with self._writing() as connection:
            oldest = select(COMMANDS.c.command).order_by(COMMANDS.c.command.desc()).offset(keep).limit(1)
            last = connection.execute(oldest).scalar()
            if last is not None:
                connection.execute(COMMANDS.delete().where(COMMANDS.c.command <= last, COMMANDS.c.status != "waiting"))


def _mark(connection: Connection, task: str) -> RetentionMark:
    columns = [RETENTION.c[name] for name in RetentionMark.__dataclass_fields__]
    row = connection.execute(select(*columns).where(RETENTION.c.task == task)).mappings().first()
    return RetentionMark() if row is None else RetentionMark(**row)


def _set_mark(connection: Connection, task: str, **numbers: int) -> None:
    known = _mark(connection, task)
    row = {name: numbers.get(name, getattr(known, name)) for name in RetentionMark.__dataclass_fields__}
    put = insert_into(connection, RETENTION).values(task=task, **row)
    connection.execute(put.on_conflict_do_update(index_elements=["task"], set_=row))


def _forget_rounds(connection: Connection, task: str, rounds: Sequence[int]) -> None:
    """Forget the rounds' own rows but for those in the privacy ledger, and count them."""
    these = [ROUNDS.c.task == task, ROUNDS.c.round.in_(rounds)]
    in_ledger = select(PRIVACY_LEDGER.c.round).where(PRIVACY_LEDGER.c.task == task)
    these.append(ROUNDS.c.round.not_in(in_ledger))
    states = list(connection.execute(select(ROUNDS.c.state).where(*these)).scalars())
    connection.execute(ROUNDS.delete().where(*these))
    known = _mark(connection, task)
    _set_mark(
        connection,
        task,
        rounds_since=max(rounds) + 1,
        n_folded=known.n_folded + states.count("folded"),
        n_abandoned=known.n_abandoned + states.count("abandoned"),
    )


def _added_up(connection: Connection, task: str, rounds: Sequence[int]) -> Any:  # noqa: ANN401 - SQLAlchemy's expression
    p, u, past = PARTICIPANTS.c, UPDATES.c, PAST_DEVICES.c
    seen = case((u.taken_unix_s > p.joined_unix_s, u.taken_unix_s), else_=p.joined_unix_s)
    sums = {
        past.n_joined: func.count(),
        past.n_updates: func.count(u.update_id),
        past.n_folded: func.sum(case((u.status == "folded", 1), else_=0)),
        past.n_examples: func.sum(func.coalesce(u.n_examples, 0)),
        past.up_bytes: func.sum(p.up_bytes),
        past.down_bytes: func.sum(p.down_bytes),
    }
    pair = and_(p.task == u.task, p.round == u.round, p.device == u.device)
    of_rounds = select(p.task, p.device, *sums.values(), func.max(seen)).outerjoin_from(PARTICIPANTS, UPDATES, pair)
    of_rounds = of_rounds.where(p.task == task, p.round.in_(rounds)).group_by(p.task, p.device)
    put = insert_into(connection, PAST_DEVICES).from_select(
        ["task", "device", *(column.name for column in sums), "last_seen_unix_s"], of_rounds
    )
    new = put.excluded
    change: dict[str, Any] = {column.name: column + new[column.name] for column in sums}
    later = new["last_seen_unix_s"] > past.last_seen_unix_s
    change["last_seen_unix_s"] = case((later, new["last_seen_unix_s"]), else_=past.last_seen_unix_s)
    return put.on_conflict_do_update(index_elements=["task", "device"], set_=change)
