"""What the page, the interface and the metrics show, read in a few grouped queries whatever the history's length.

Laws: reads only (SQLite is told so); every list is bounded by its caller, newest first; no call takes longer with more
rounds than it returns, but for ``totals``, which counts rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, func, or_, select, union

from aggregator.adapters import sql_buffers
from aggregator.adapters.sql_database import SqlDatabase
from aggregator.adapters.tables import (
    BUFFERED,
    COMMANDS,
    DEVICES,
    PARTICIPANTS,
    PAST_DEVICES,
    REFUSALS,
    RETENTION,
    ROUNDS,
    UPDATES,
    VERSIONS,
)
from aggregator.core.records import CommandRecord, RoundRecord, RoundSummary, VersionRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from aggregator.adapters.engines import Database

__all__ = ["DeviceActivity", "RoundReport", "SqlReports", "Totals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """A round and the sums over its participants and updates."""

    record: RoundRecord
    summary: RoundSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceActivity:
    """What a device did; times are seconds of Unix time."""

    n_joined: int
    n_updates: int
    n_examples: int
    bytes_up: int
    bytes_down: int
    last_seen_unix_s: float

    def and_then(self, newer: DeviceActivity) -> DeviceActivity:
        """Return both together."""
        return DeviceActivity(
            n_joined=self.n_joined + newer.n_joined,
            n_updates=self.n_updates + newer.n_updates,
            n_examples=self.n_examples + newer.n_examples,
            bytes_up=self.bytes_up + newer.bytes_up,
            bytes_down=self.bytes_down + newer.bytes_down,
            last_seen_unix_s=max(self.last_seen_unix_s, newer.last_seen_unix_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts over everything, keyed by task and, where it says so, by state or reason."""

    rounds: dict[tuple[str, str], int]  # by state
    updates: dict[str, int]
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    refusals: dict[tuple[str, str], int]  # by reason
    devices: dict[str, int]  # by status
    n_waiting_commands: int


class SqlReports(SqlDatabase):
    """Reads beside a running service; ``close`` it at the end."""

    def __init__(self, database: Database) -> None:
        """Open ``database`` to read; errors as in ``SqlDatabase``."""
        super().__init__(database, is_read_only=True)

    def rounds(self, task: str, *, limit: int, before: int | None = None) -> list[RoundReport]:
        """Return the task's newest rounds, newest first; ``before`` leaves out that round and newer ones."""
        where = [ROUNDS.c.task == task] + ([] if before is None else [ROUNDS.c.round < before])
        columns = [ROUNDS.c[name] for name in RoundRecord.__dataclass_fields__]
        with self._reading() as connection:
            found = connection.execute(select(*columns).where(*where).order_by(ROUNDS.c.round.desc()).limit(limit))
            records = [RoundRecord(**row) for row in found.mappings()]
            sums = _summaries(connection, task, [one.round for one in records])
        return [RoundReport(record=one, summary=sums[one.round]) for one in records]

    def versions(self, task: str, *, limit: int, before: int | None = None) -> list[VersionRecord]:
        """Return the task's newest versions, newest first."""
        where = [VERSIONS.c.task == task] + ([] if before is None else [VERSIONS.c.version < before])
        query = select(VERSIONS).where(*where).order_by(VERSIONS.c.version.desc()).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).mappings()
            return [VersionRecord(**{**row, "state": json.loads(row["state"])}) for row in rows]

    def totals_of(self, task: str) -> dict[str, int]:
        """Return how many rounds a task folded, how many updates it took, and the bytes that crossed the broker."""
        p = PARTICIPANTS.c
        folded = select(func.count()).where(ROUNDS.c.task == task, ROUNDS.c.state == "folded")
        taken = select(func.count()).where(UPDATES.c.task == task)
        traffic = select(func.sum(p.up_bytes), func.sum(p.down_bytes)).where(p.task == task)
        with self._reading() as connection:
            up, down = connection.execute(traffic).one()
            past = _past_totals(connection).get(task, _Past())
            retired = connection.execute(select(RETENTION.c.n_folded).where(RETENTION.c.task == task)).scalar()
            return {
                "n_folded": connection.execute(folded).scalar_one() + (retired or 0),
                "n_updates": connection.execute(taken).scalar_one() + past.n_updates,
                "bytes_up": int(up or 0) + past.up_bytes,
                "bytes_down": int(down or 0) + past.down_bytes,
            }

    def commands(self, task: str, *, limit: int) -> list[CommandRecord]:
        """Return what was last asked of a task, newest first."""
        query = select(COMMANDS).where(COMMANDS.c.task == task).order_by(COMMANDS.c.command.desc()).limit(limit)
        with self._reading() as connection:
            return [CommandRecord(**row) for row in connection.execute(query).mappings()]

    def command(self, command: int) -> CommandRecord | None:
        """Return one command, or None."""
        with self._reading() as connection:
            row = connection.execute(select(COMMANDS).where(COMMANDS.c.command == command)).mappings().first()
            return None if row is None else CommandRecord(**row)

    def activity(self, devices: Sequence[str]) -> dict[str, DeviceActivity]:
        """Return what each of ``devices`` did, if it ever took part."""
        p, u = PARTICIPANTS.c, UPDATES.c
        joined = select(p.device, func.count(), func.sum(p.up_bytes), func.sum(p.down_bytes), func.max(p.joined_unix_s))
        taken = select(u.device, func.count(), func.sum(u.n_examples), func.max(u.taken_unix_s))
        with self._reading() as connection:
            of = connection.execute(taken.where(u.device.in_(devices)).group_by(u.device))
            updates = {device: (count, examples, last) for device, count, examples, last in of}
            found = connection.execute(joined.where(p.device.in_(devices)).group_by(p.device)).all()
            past = _past_activity(connection, devices)
        activity = {}
        for device, n_joined, up, down, last_joined in found:
            n_updates, n_examples, last_taken = updates.get(device, (0, 0, 0.0))
            activity[device] = DeviceActivity(
                n_joined=n_joined,
                n_updates=n_updates,
                n_examples=int(n_examples),
                bytes_up=int(up),
                bytes_down=int(down),
                last_seen_unix_s=max(last_joined, last_taken),
            )
        for device, older in past.items():
            activity[device] = older.and_then(activity[device]) if device in activity else older
        return activity

    def participants(self) -> list[str]:
        """Return every device that ever took part, by name: those of ``devices.toml`` have no row of their own."""
        both = union(select(PARTICIPANTS.c.device), select(PAST_DEVICES.c.device)).subquery()
        with self._reading() as connection:
            return list(connection.execute(select(both.c.device).order_by(both.c.device)).scalars())

    def totals(self) -> Totals:
        """Return the counts that the metrics show."""
        p = PARTICIPANTS.c
        with self._reading() as connection:

            def counted(*keys: Any) -> list[Any]:  # noqa: ANN401 - SQLAlchemy's columns and rows
                return list(connection.execute(select(*keys, func.count()).group_by(*keys)).all())

            rounds = {(task, state): n for task, state, n in counted(ROUNDS.c.task, ROUNDS.c.state)}
            for task, n_folded, n_abandoned in connection.execute(_RETIRED_ROUNDS):
                for state, count in (("folded", n_folded), ("abandoned", n_abandoned)):
                    if count:
                        rounds[task, state] = rounds.get((task, state), 0) + count
            waiting = select(func.count()).select_from(COMMANDS).where(COMMANDS.c.status == "waiting")
            refused = connection.execute(select(REFUSALS.c.task, REFUSALS.c.reason, REFUSALS.c["count"]))
            traffic = select(p.task, func.sum(p.up_bytes), func.sum(p.down_bytes)).group_by(p.task)
            sums = _with_past(
                _past_totals(connection),
                updates=dict(tuple(row) for row in counted(UPDATES.c.task)),
                traffic={task: (int(up), int(down)) for task, up, down in connection.execute(traffic)},
            )
            return Totals(
                rounds=rounds,
                updates={task: one.n_updates for task, one in sums.items() if one.n_updates},
                bytes_up={task: one.up_bytes for task, one in sums.items()},
                bytes_down={task: one.down_bytes for task, one in sums.items()},
                refusals={(task, reason): n for task, reason, n in refused},
                devices=dict(tuple(row) for row in counted(DEVICES.c.status)),
                n_waiting_commands=connection.execute(waiting).scalar_one(),
            )


@dataclass(frozen=True, slots=True)
class _Past:
    """Sums over a task's updates and participants."""

    n_updates: int = 0
    up_bytes: int = 0
    down_bytes: int = 0


_RETIRED_ROUNDS: Final = select(RETENTION.c.task, RETENTION.c.n_folded, RETENTION.c.n_abandoned)


def _past_totals(connection: Connection) -> dict[str, _Past]:
    past = PAST_DEVICES.c
    query = select(past.task, func.sum(past.n_updates), func.sum(past.up_bytes), func.sum(past.down_bytes))
    rows = connection.execute(query.group_by(past.task))
    return {task: _Past(int(n_updates), int(up), int(down)) for task, n_updates, up, down in rows}


def _with_past(
    past: dict[str, _Past], *, updates: dict[str, int], traffic: dict[str, tuple[int, int]]
) -> dict[str, _Past]:
    sums = {}
    for task in sorted(past.keys() | traffic.keys()):
        old, (up, down) = past.get(task, _Past()), traffic.get(task, (0, 0))
        sums[task] = _Past(old.n_updates + updates.get(task, 0), old.up_bytes + up, old.down_bytes + down)
    return sums


def _past_activity(connection: Connection, devices: Sequence[str]) -> dict[str, DeviceActivity]:
    past = PAST_DEVICES.c
    columns = (past.n_joined, past.n_updates, past.n_examples, past.up_bytes, past.down_bytes)
    sums = (func.sum(one) for one in columns)
    query = select(past.device, func.max(past.last_seen_unix_s), *sums).where(past.device.in_(devices))
    return {
        device: DeviceActivity(
            n_joined=int(n_joined),
            n_updates=int(n_updates),
            n_examples=int(n_examples),
            bytes_up=int(up),
            bytes_down=int(down),
            last_seen_unix_s=last_seen,
        )
        for device, last_seen, n_joined, n_updates, n_examples, up, down in connection.execute(
            query.group_by(past.device)
        )
    }


def _summaries(connection: Connection, task: str, rounds: Sequence[int]) -> dict[int, RoundSummary]:
    p, u = PARTICIPANTS.c, UPDATES.c
    joined = select(p.round, func.count(), func.sum(p.up_bytes), func.sum(p.down_bytes))
    fold = sql_buffers.fold_of()
    taken = select(fold, func.count(), func.max(u.train_s), func.sum(u.loss * u.n_examples), func.sum(u.n_examples))
    taken = taken.outerjoin_from(UPDATES, BUFFERED, BUFFERED.c.update_id == u.update_id)
    of_joined = connection.execute(joined.where(and_(p.task == task, p.round.in_(rounds))).group_by(p.round))
    participants = {number: figures for number, *figures in of_joined}
    in_them = or_(u.round.in_(rounds), BUFFERED.c.buffer.in_(rounds))  # by index; the group then says which it is
    of_taken = connection.execute(taken.where(u.task == task, in_them).group_by(fold))
    updates = {number: figures for number, *figures in of_taken}
    summaries = {}
    for number in rounds:
        n_joined, up, down = participants.get(number, (0, 0, 0))
        n_taken, train_s, loss, n_examples = updates.get(number, (0, 0.0, 0.0, 0))
        summaries[number] = RoundSummary(
            n_participants=n_joined,
            n_updates=n_taken,
            train_s_max=train_s,
            loss=loss / n_examples if n_examples else None,
            bytes_up=int(up),
            bytes_down=int(down),
        )
    return summaries
