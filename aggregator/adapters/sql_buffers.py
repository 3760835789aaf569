"""Which asynchronous update is in which buffer; each function works inside a transaction of ``sql_store``.

Laws: an update has at most one row here, as its primary key says, so it can be in one buffer only; updates of
synchronous rounds have none, and are in the round for which their work was handed out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, exists, func, or_, select

from aggregator.adapters.tables import BUFFERED, PARTICIPANTS, ROUNDS, STANDINGS, UPDATES, VERSIONS
from aggregator.core.buffer import Buffered
from aggregator.core.records import RoundRecord, UpdateRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

__all__ = [
    "add_to",
    "at_work_in",
    "buffered_in",
    "carry",
    "fold_of",
    "forget",
    "is_folded_in",
    "oldest_work_in",
    "rejected_in",
    "restored_in",
    "rounds_from",
]


def add_to(connection: Connection, update: UpdateRecord, buffer: int) -> None:
    """Keep that ``update`` waits in ``buffer``, and the version that it is based on, which outlives its round's row."""
    of_work = and_(ROUNDS.c.task == update.task, ROUNDS.c.round == update.round)
    version = connection.execute(select(ROUNDS.c.version).where(of_work)).scalar_one()
    row = {"update_id": update.update_id, "task": update.task, "buffer": buffer, "version": version}
    connection.execute(BUFFERED.insert(), row)


def carry(connection: Connection, task: str, buffer: int, *, into: int) -> None:
    """Move what waits in one buffer into another."""
    connection.execute(BUFFERED.update().where(_of(task, buffer)).values(buffer=into))


def buffered_in(connection: Connection, task: str, buffer: int) -> tuple[Buffered, ...]:
    """Return the updates of one buffer, each with the version that it is based on, by device and work."""
    columns = [UPDATES.c[name] for name in UpdateRecord.__dataclass_fields__]
    query = (
        select(*columns, BUFFERED.c.version)
        .join_from(UPDATES, BUFFERED, BUFFERED.c.update_id == UPDATES.c.update_id)
        .where(_of(task, buffer))
        .order_by(UPDATES.c.device, UPDATES.c.round)
    )
    rows = [dict(row) for row in connection.execute(query).mappings()]
    return tuple(Buffered(version=row.pop("version"), update=UpdateRecord(**row)) for row in rows)


def oldest_work_in(connection: Connection, task: str, *, since: int) -> int | None:
    """Return the oldest round whose work is in buffer ``since`` or a later one; None if they are empty."""
    pair = BUFFERED.c.update_id == UPDATES.c.update_id
    query = select(func.min(UPDATES.c.round)).join_from(UPDATES, BUFFERED, pair)
    return connection.execute(query.where(BUFFERED.c.task == task, BUFFERED.c.buffer >= since)).scalar()


def forget(connection: Connection, task: str, rounds: Sequence[int]) -> None:
    """Forget who was in the buffers of these rounds, and where work of these rounds went."""
    work = select(UPDATES.c.update_id).where(UPDATES.c.task == task, UPDATES.c.round.in_(rounds))
    these = or_(BUFFERED.c.buffer.in_(rounds), BUFFERED.c.update_id.in_(work))
    connection.execute(BUFFERED.delete().where(BUFFERED.c.task == task, these))


def is_folded_in(task: str, round_: int) -> ColumnElement[bool]:
    """Return the condition that an update is in one round's fold: by its buffer or, without one, by its own round."""
    own = and_(UPDATES.c.task == task, UPDATES.c.round == round_)
    elsewhere = exists().where(BUFFERED.c.update_id == UPDATES.c.update_id)
    here = UPDATES.c.update_id.in_(select(BUFFERED.c.update_id).where(_of(task, round_)))
    return or_(and_(own, ~elsewhere), here)


def fold_of() -> ColumnElement[int]:
    """Return the number of the round or buffer that an update is in, for queries that outer-join ``BUFFERED``."""
    return func.coalesce(BUFFERED.c.buffer, UPDATES.c.round)


def at_work_in(connection: Connection, task: str, *, since: int) -> tuple[str, ...]:
    """Return the devices whose newest work is of round ``since`` or later and has no update yet, by name.

    Older work without one was lost or left: a device has one work of a task at a time.
    """
    p, u = PARTICIPANTS.c, UPDATES.c
    newest = select(p.device, func.max(p.round).label("round")).where(p.task == task, p.round >= since)
    work = newest.group_by(p.device).subquery().c
    answered = exists().where(and_(u.task == task, u.round == work.round, u.device == work.device))
    query = select(work.device).where(~answered).order_by(work.device)
    return tuple(connection.execute(query).scalars())


def rounds_from(connection: Connection, task: str, *, version: int) -> tuple[RoundRecord, ...]:
    """Return the task's rounds on ``version`` and later ones, oldest first."""
    columns = [ROUNDS.c[name] for name in RoundRecord.__dataclass_fields__]
    query = select(*columns).where(ROUNDS.c.task == task, ROUNDS.c.version >= version).order_by(ROUNDS.c.round)
    return tuple(RoundRecord(**row) for row in connection.execute(query).mappings())


def restored_in(connection: Connection, task: str) -> int:
    """Return the newest version that is no fold: the bundle's own, or what an operator went back to."""
    query = select(func.max(VERSIONS.c.version)).where(VERSIONS.c.task == task, VERSIONS.c.round.is_(None))
    return int(connection.execute(query).scalar() or 0)


def rejected_in(connection: Connection, task: str) -> frozenset[int]:
    """Return the versions that a gate refused."""
    query = select(STANDINGS.c.version).where(STANDINGS.c.task == task, STANDINGS.c.status == "rejected")
    return frozenset(connection.execute(query).scalars())


def _of(task: str, buffer: int) -> ColumnElement[bool]:
    return and_(BUFFERED.c.task == task, BUFFERED.c.buffer == buffer)
