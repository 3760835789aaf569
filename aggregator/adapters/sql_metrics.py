"""What devices told of how they learn, with their updates; ``add`` works inside a transaction of ``sql_store``.

Laws: a figure is of one update, kept with it or not at all; it goes when its round's rows are retired.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, func, select

from aggregator.adapters.sql_database import SqlDatabase
from aggregator.adapters.tables import DEVICE_METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from aggregator.core.records import UpdateRecord

__all__ = ["NO_METRICS", "RoundFigure", "SqlMetrics", "add"]


@dataclass(frozen=True, slots=True)
class RoundFigure:
    """One figure over the devices that told it in one round."""

    round: int
    name: str
    n_devices: int
    mean: float
    lowest: float
    highest: float


NO_METRICS: Final[Mapping[str, float]] = MappingProxyType({})


class SqlMetrics(SqlDatabase):
    """Reads what devices told; ``close`` it at the end."""

    def newest(self, task: str) -> dict[str, dict[str, float]]:
        """Return what each device of a task told last, by device and name."""
        m = DEVICE_METRICS.c
        last = select(m.device, func.max(m.round).label("round")).where(m.task == task).group_by(m.device).subquery()
        query = select(m.device, m.name, m.value).join(last, and_(last.c.device == m.device, last.c.round == m.round))
        found: dict[str, dict[str, float]] = {}
        with self._reading() as connection:
            for device, name, value in connection.execute(query.where(m.task == task).order_by(m.device, m.name)):
                found.setdefault(device, {})[name] = value
        return found

    def by_round(self, task: str, *, limit: int) -> list[RoundFigure]:
        """Return what the devices of a task's newest ``limit`` told rounds said, newest first, then by name."""
        m = DEVICE_METRICS.c
        newest = select(m.round).where(m.task == task).distinct().order_by(m.round.desc()).limit(limit)
        query = (
            select(m.round, m.name, func.count(), func.avg(m.value), func.min(m.value), func.max(m.value))
            .where(m.task == task, m.round.in_(newest))
            .group_by(m.round, m.name)
            .order_by(m.round.desc(), m.name)
        )
        with self._reading() as connection:
            return [RoundFigure(*row) for row in connection.execute(query)]


def add(connection: Connection, update: UpdateRecord, metrics: Mapping[str, float]) -> None:
    """Keep what came with an update."""
    of_update = {"task": update.task, "round": update.round, "device": update.device}
    rows = [{**of_update, "name": name, "value": value} for name, value in metrics.items()]
    if rows:
        connection.execute(DEVICE_METRICS.insert(), rows)
