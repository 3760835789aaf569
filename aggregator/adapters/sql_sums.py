"""Secure sums in the service's database.

Laws: a message and the state that has it are one transaction, and so are the end of a step, the round's next state and
what devices are sent; of a device's vector nothing is kept but its part of the running sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from aggregator.adapters.sql_database import SqlDatabase, insert_into
from aggregator.adapters.sql_rounds import count_traffic, fire_round, of_device, of_round
from aggregator.adapters.tables import ROUNDS, SUM_MESSAGES, SUM_STEPS, SUMS
from aggregator.core.records import Traffic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from aggregator.core.rounds import RoundEvent
    from protocol.sum_round import SumNextName, SumStepName

__all__ = ["SqlSums"]


class SqlSums(SqlDatabase):
    """Implements ``aggregator.store_ports.SumStore``; ``close`` it at the end."""

    def state(self, task: str, round_: int) -> bytes | None:
        """Return the packed sum of a round, or None if nothing of it was taken or it was forgotten."""
        with self._reading() as connection:
            found = connection.execute(select(SUMS.c.state).where(of_round(SUMS, task, round_))).scalar()
        return None if found is None else bytes(found)

    def taken(self, task: str, round_: int, device: str, step: SumStepName) -> bytes | None:
        """Return the id of the message of ``step`` that was taken from the device."""
        query = select(SUM_STEPS.c.update_id).where(of_device(SUM_STEPS, task, round_, device))
        with self._reading() as connection:
            found = connection.execute(query.where(SUM_STEPS.c.step == step)).scalar()
        return None if found is None else bytes(found)

    def messages(self, task: str, round_: int) -> dict[str, tuple[SumNextName, bytes]]:
        """Return what each device was sent at the beginning of the present step."""
        query = select(SUM_MESSAGES.c.device, SUM_MESSAGES.c.step, SUM_MESSAGES.c.message)
        with self._reading() as connection:
            rows = connection.execute(query.where(of_round(SUM_MESSAGES, task, round_)))
            return {device: (step, bytes(message)) for device, step, message in rows}

    def accept(  # noqa: PLR0913 - one message and what follows from it
        self,
        task: str,
        round_: int,
        device: str,
        *,
        step: SumStepName,
        update_id: bytes,
        state: bytes,
        traffic: Traffic,
    ) -> None:
        """Keep that a device's message was taken, and the state that has it."""
        row = {"task": task, "round": round_, "step": step, "device": device, "update_id": update_id}
        with self._writing() as connection:
            _put_state(connection, task, round_, state)
            connection.execute(SUM_STEPS.insert(), row)
            count_traffic(connection, task, round_, device, traffic)

    def close_step(  # noqa: PLR0913 - the end of one step
        self,
        task: str,
        round_: int,
        round_event: RoundEvent,
        *,
        state: bytes,
        step: SumNextName | None,
        messages: Mapping[str, bytes],
        n_bytes: Mapping[str, int],
        deadline_unix_s: float,
    ) -> None:
        """End a step: the new state, the round's next state and deadline, and what each device is sent."""
        common = {"task": task, "round": round_, "step": step}
        rows = [{**common, "device": device, "message": message} for device, message in messages.items()]
        this = of_round(ROUNDS, task, round_)
        with self._writing() as connection:
            fire_round(connection, task, round_, round_event)
            connection.execute(ROUNDS.update().where(this).values(deadline_unix_s=deadline_unix_s))
            _put_state(connection, task, round_, state)
            connection.execute(SUM_MESSAGES.delete().where(of_round(SUM_MESSAGES, task, round_)))
            if rows:
                connection.execute(SUM_MESSAGES.insert(), rows)
            for device, down_bytes in n_bytes.items():
                count_traffic(connection, task, round_, device, Traffic(down_bytes=down_bytes))

    def forget(self, task: str, round_: int, *, keep_state: bool) -> None:
        """Drop what only a running sum needs and, unless it is to be folded again later, the sum itself."""
        with self._writing() as connection:
            for table in (SUM_MESSAGES, SUM_STEPS) if keep_state else (SUM_MESSAGES, SUM_STEPS, SUMS):
                connection.execute(table.delete().where(of_round(table, task, round_)))


def _put_state(connection: Connection, task: str, round_: int, state: bytes) -> None:
    row = insert_into(connection, SUMS).values(task=task, round=round_, state=state)
    connection.execute(row.on_conflict_do_update(index_elements=["task", "round"], set_={"state": state}))
