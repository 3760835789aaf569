"""Created tasks, operators' commands and decisions about versions in the service's database.

Laws: every writing method is one transaction; the command line inserts commands and created tasks and nothing else, the
service alone changes what is there; a command is marked in the transaction that carries it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, select

from aggregator.adapters.sql_database import SqlDatabase, insert_into
from aggregator.adapters.sql_rounds import end_round, version_row
from aggregator.adapters.tables import COMMANDS, CREATED_TASKS, EVALUATIONS, STANDINGS, TASKS, VERSIONS
from aggregator.core.records import CommandRecord, CreatedTask, Standing
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from aggregator.core.lifecycle import Verb
    from aggregator.core.records import Change

__all__ = ["SqlLifecycle", "copy_figures"]


class SqlLifecycle(SqlDatabase):
    """Implements ``aggregator.store_ports.LifecycleStore``; ``close`` it at the end."""

    # -- reads -------------------------------------------------------------------------------------------------------

    def created(self) -> tuple[CreatedTask, ...]:
        """Return the tasks that came by command, by name."""
        with self._reading() as connection:
            rows = connection.execute(select(CREATED_TASKS).order_by(CREATED_TASKS.c.task)).mappings()
            return tuple(CreatedTask(**row) for row in rows)

    def waiting(self) -> tuple[CommandRecord, ...]:
        """Return the commands that were not carried out yet, oldest first."""
        query = select(COMMANDS).where(COMMANDS.c.status == "waiting").order_by(COMMANDS.c.command)
        with self._reading() as connection:
            return tuple(CommandRecord(**row) for row in connection.execute(query).mappings())

    def command(self, command: int) -> CommandRecord:
        """Return one command."""
        with self._reading() as connection:
            row = connection.execute(select(COMMANDS).where(COMMANDS.c.command == command)).mappings().one()
            return CommandRecord(**row)

    def standings(self, task: str) -> dict[int, Standing]:
        """Return what was decided about the task's versions."""
        query = select(STANDINGS).where(STANDINGS.c.task == task).order_by(STANDINGS.c.version)
        with self._reading() as connection:
            return {row["version"]: Standing(**row) for row in connection.execute(query).mappings()}

    # -- the command line --------------------------------------------------------------------------------------------

    def create(self, task: CreatedTask) -> int:
        """Keep a new task and the command to begin it; return the command's number.

        Raises:
            ConfigError: a task of this id was created before (the user's fault).
        """
        with self._writing() as connection:
            row = {name: getattr(task, name) for name in task.__dataclass_fields__}
            put = insert_into(connection, CREATED_TASKS).values(row).on_conflict_do_nothing()
            if connection.execute(put.returning(CREATED_TASKS.c.task)).first() is None:
                raise ConfigError(f"task {task.task}: one of this id was created before; give it another id")
            return _ask(connection, task.task, "create", None, task.created_unix_s)

    def ask(self, task: str, verb: Verb, *, version: int | None, unix_s: float) -> int:
        """Write a command down for the service; return its number."""
        with self._writing() as connection:
            return _ask(connection, task, verb, version, unix_s)

    # -- the service -------------------------------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Make one decision durable, all of it or nothing."""
        with self._writing() as connection:
            if change.withdrawn_round is not None:
                end_round(connection, change.task, change.withdrawn_round, "withdrawn", unix_s=change.unix_s)
            if change.state is not None:
                connection.execute(TASKS.update().where(TASKS.c.task == change.task).values(state=change.state))
            if change.version is not None:
                connection.execute(VERSIONS.insert(), version_row(change.version))
                if change.copied is not None:
                    copy_figures(connection, change.task, change.copied, change.version.version)
            for standing in change.standings:
                row = {name: getattr(standing, name) for name in standing.__dataclass_fields__}
                put = insert_into(connection, STANDINGS).values(row)
                connection.execute(put.on_conflict_do_update(index_elements=["task", "version"], set_=row))
            if change.command is not None:
                _mark(connection, change.command, "done", "")

    def done(self, command: int) -> None:
        """Keep that a command was obeyed."""
        with self._writing() as connection:
            _mark(connection, command, "done", "")

    def refuse(self, command: CommandRecord, why: str) -> None:
        """Keep why a command was not obeyed; a task that was to be created is forgotten."""
        with self._writing() as connection:
            _mark(connection, command.command, "refused", why)
            if command.verb == "create":
                connection.execute(CREATED_TASKS.delete().where(CREATED_TASKS.c.task == command.task))


def _ask(connection: Connection, task: str, verb: Verb, version: int | None, unix_s: float) -> int:
    row = {"task": task, "verb": verb, "version": version, "status": "waiting", "why": "", "asked_unix_s": unix_s}
    key = connection.execute(COMMANDS.insert().values(row)).inserted_primary_key
    return int(key[0]) if key is not None else 0


def _mark(connection: Connection, command: int, status: str, why: str) -> None:
    connection.execute(COMMANDS.update().where(COMMANDS.c.command == command).values(status=status, why=why))


def copy_figures(connection: Connection, task: str, old: int, new: int) -> None:
    """Give version ``new`` the metrics of ``old``, whose content it has."""
    of_old = and_(EVALUATIONS.c.task == task, EVALUATIONS.c.version == old)
    rows = [dict(row) for row in connection.execute(select(EVALUATIONS).where(of_old)).mappings()]
    if rows:
        connection.execute(EVALUATIONS.insert(), [{**row, "version": new} for row in rows])
