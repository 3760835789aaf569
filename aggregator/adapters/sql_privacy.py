"""The privacy ledger's rows; each function works inside a transaction of ``sql_store``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sqlalchemy import and_, func, select

from aggregator.adapters.tables import PAST_DEVICES, PRIVACY_LEDGER, UPDATES
from aggregator.core.privacy.ledger import LedgerEntry

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from aggregator.core.privacy.ledger import PrivateFold

__all__ = ["add_entry", "complete_entry", "entries_of", "participation_in"]


def entries_of(connection: Connection, task: str) -> tuple[LedgerEntry, ...]:
    """Return the task's entries by round."""
    columns = [PRIVACY_LEDGER.c[one.name] for one in dataclasses.fields(LedgerEntry)]
    query = select(*columns).where(PRIVACY_LEDGER.c.task == task).order_by(PRIVACY_LEDGER.c.round)
    return tuple(LedgerEntry(**row) for row in connection.execute(query).mappings())


def participation_in(connection: Connection, task: str) -> dict[str, int]:
    """Return in how many folds each device's update was, retired rounds included."""
    past = PAST_DEVICES.c
    retired = select(past.device, past.n_folded).where(past.task == task, past.n_folded > 0)
    counts = {device: int(n_folded) for device, n_folded in connection.execute(retired)}
    is_folded = and_(UPDATES.c.task == task, UPDATES.c.status == "folded")
    query = select(UPDATES.c.device, func.count(UPDATES.c.update_id)).where(is_folded).group_by(UPDATES.c.device)
    for device, n_folded in connection.execute(query):
        counts[device] = counts.get(device, 0) + n_folded
    return counts


def add_entry(connection: Connection, entry: LedgerEntry) -> None:
    """Keep a new entry."""
    row = {one.name: getattr(entry, one.name) for one in dataclasses.fields(entry)}
    connection.execute(PRIVACY_LEDGER.insert(), row)


def complete_entry(connection: Connection, task: str, round_: int, private: PrivateFold) -> None:
    """Keep the clip that the round's fold found and, as a rule, forget its noise."""
    this = and_(PRIVACY_LEDGER.c.task == task, PRIVACY_LEDGER.c.round == round_)
    change: dict[str, object] = {"next_clip": private.next_clip}
    if not private.keep_seed:
        change["noise_seed"] = None
    connection.execute(PRIVACY_LEDGER.update().where(this).values(**change))
