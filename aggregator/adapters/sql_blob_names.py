"""Which blobs the rows of a database need; each works inside the caller's transaction.

Laws: a blob's name is the hash of its bytes, so two rows may name one; what any of these names is never removed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from aggregator.adapters import sql_buffers
from aggregator.adapters.tables import BUFFERED, RETENTION, STAGED_UPDATES, UPDATES, VERSIONS

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["blobs_in_use", "kept_blobs", "state_blobs"]


def blobs_in_use(connection: Connection, *, keep_folded: bool, but_staged: int | None = None) -> set[str]:
    """Return the names of the blobs that rows need, but for the staged one with the number ``but_staged``."""
    accepted = select(UPDATES.c.blob).where(UPDATES.c.status == "accepted")
    staged = select(STAGED_UPDATES.c.blob).where(STAGED_UPDATES.c.blob.is_not(None))
    if but_staged is not None:
        staged = staged.where(STAGED_UPDATES.c.number != but_staged)
    names = set(connection.execute(accepted).scalars()) | state_blobs(connection)
    names |= set(connection.execute(staged).scalars())
    return names | kept_blobs(connection) if keep_folded else names


def kept_blobs(connection: Connection) -> set[str]:
    """Return the names of the blobs that hold folded updates, where those are kept, of all tasks."""
    since = func.coalesce(RETENTION.c.updates_since, 0)
    folded = select(UPDATES.c.blob).outerjoin(RETENTION, RETENTION.c.task == UPDATES.c.task)
    folded = folded.outerjoin(BUFFERED, BUFFERED.c.update_id == UPDATES.c.update_id)
    folded = folded.where(UPDATES.c.status == "folded", sql_buffers.fold_of() >= since)
    return set(connection.execute(folded).scalars())


def state_blobs(connection: Connection) -> set[str]:
    """Return the names of the blobs that versions need, of all tasks."""
    states = connection.execute(select(VERSIONS.c.state)).scalars()
    return {name for state in states for name in json.loads(state).values()}
