"""The rows of rounds that several stores change; each function works inside its caller's transaction.

Law: a round's state changes along the table of ``core.rounds`` and in no other way.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, select

from aggregator.adapters import sql_buffers
from aggregator.adapters.tables import PARTICIPANTS, ROUNDS, UPDATES
from aggregator.core.rounds import fire
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Table

    from aggregator.core.records import Traffic, VersionRecord
    from aggregator.core.rounds import RoundEvent

__all__ = ["count_traffic", "end_round", "fire_round", "of_device", "of_round", "version_row"]


def of_round(table: Table, task: str, round_: int) -> ColumnElement[bool]:
    """Return the condition that a row is of one round."""
    return and_(table.c.task == task, table.c.round == round_)


def of_device(table: Table, task: str, round_: int, device: str) -> ColumnElement[bool]:
    """Return the condition that a row is of one device in one round."""
    return and_(of_round(table, task, round_), table.c.device == device)


def version_row(version: VersionRecord) -> Mapping[str, object]:
    """Return a version as a row."""
    return {**plain(version), "round": version.round, "state": json.dumps(plain(version.state), sort_keys=True)}


def count_traffic(connection: Connection, task: str, round_: int, device: str, traffic: Traffic) -> None:
    """Add to a participant's traffic, if the device is one."""
    columns = PARTICIPANTS.c
    more = {"up_bytes": columns.up_bytes + traffic.up_bytes, "down_bytes": columns.down_bytes + traffic.down_bytes}
    connection.execute(PARTICIPANTS.update().where(of_device(PARTICIPANTS, task, round_, device)).values(**more))


def fire_round(
    connection: Connection, task: str, round_: int, round_event: RoundEvent, *, closed_unix_s: float | None = None
) -> None:
    """Move the round along the table of ``core.rounds``, inside the caller's transaction."""
    this = of_round(ROUNDS, task, round_)
    state = fire(connection.execute(select(ROUNDS.c.state).where(this)).scalar_one(), round_event)
    connection.execute(ROUNDS.update().where(this).values(state=state, closed_unix_s=closed_unix_s))


def end_round(connection: Connection, task: str, round_: int, round_event: RoundEvent, *, unix_s: float) -> None:
    """Abandon a round for the reason ``round_event`` and discard its updates."""
    fire_round(connection, task, round_, round_event, closed_unix_s=unix_s)
    connection.execute(UPDATES.update().where(sql_buffers.is_folded_in(task, round_)).values(status="discarded"))
