"""Puts a dump into an empty database and lifts every task above what its devices may have seen (ADR 0019).

Laws: one transaction, so that a restore that is interrupted has restored nothing; a round that was under way is given
up and its updates discarded; what could have been taken back since the backup does not come back: unused tokens end,
and noise of a fold that was not finished is never drawn again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import and_, select

from aggregator.adapters import migrations, sql_buffers, sql_privacy
from aggregator.adapters.sql_database import changed_database
from aggregator.adapters.sql_dump import LEFT_BEHIND, is_empty, load_table
from aggregator.adapters.sql_lifecycle import copy_figures
from aggregator.adapters.sql_rounds import version_row
from aggregator.adapters.tables import (
    CERTIFICATES,
    CREATED_TASKS,
    DEVICES,
    METADATA,
    PRIVACY_LEDGER,
    ROUNDS,
    STANDINGS,
    SUM_MESSAGES,
    SUM_STEPS,
    SUMS,
    TASKS,
    TOKENS,
    UPDATES,
    VERSIONS,
)
from aggregator.core.gates import statuses
from aggregator.core.records import CreatedTask, RoundRecord, Standing, VersionRecord
from aggregator.core.restoring import raised
from aggregator.core.rounds import FINAL_STATES
from protocol.errors import ConfigError, TrustError
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from aggregator.adapters.backup_archive import OpenedBackup
    from aggregator.adapters.engines import Database
    from aggregator.core.privacy.ledger import LedgerEntry

__all__ = ["Lifted", "RestoreRules", "restore_database"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """A restored task: it goes on after ``round`` and from ``version``, which repeats ``origin``."""

    task: str
    round: int
    version: int
    origin: int
    discarded_round: int | None  # that was under way when the backup was made
    is_stopped: bool = False  # what it spent of its privacy budget since the backup is not known


class RestoreRules(Protocol):
    """What the database's rows alone do not say."""

    def has_gate(self, task: str, created: tuple[CreatedTask, ...]) -> bool:
        """Return whether the task's settings have a gate; ``created`` are the tasks that came by command."""

    def must_stop(self, task: str, spent: tuple[LedgerEntry, ...], created: tuple[CreatedTask, ...]) -> bool:
        """Keep in the second record what was ``spent``; return whether what came after it is not known.

        Raises:
            ConfigError: the operator has to say what is to become of the task.
        """


def restore_database(
    database: Database,
    backup: OpenedBackup,
    *,
    rules: RestoreRules,
    revoked: Iterable[str],
    unix_s: float,
) -> tuple[Lifted, ...]:
    """Fill an empty database from ``backup``.

    Args:
        database: made if it is missing.
        backup: a whole one.
        rules: what becomes of each task.
        revoked: serial numbers (hex) that an older revocation list has: their devices stay shut out.
        unix_s: now.

    Raises:
        ConfigError: the database is not empty, or a task has no numbers left (the user's fault).
        TrustError: the backup's rows are no rows of ours.
        StorageError: the database cannot be written; nothing was kept.
    """
    manifest = backup.manifest
    if manifest.revision > migrations.HEAD:
        raise ConfigError(f"the backup was made by a newer edgefold (schema {manifest.revision}); restore it with that")
    if migrations.is_current(database):
        _refuse_filled(database)
    with changed_database(database) as connection:
        _load(connection, backup)
        _forget_grants(connection, revoked)
        created = tuple(CreatedTask(**row) for row in connection.execute(select(CREATED_TASKS)).mappings())
        tasks = connection.execute(select(TASKS.c.task).order_by(TASKS.c.task)).scalars().all()
        elapsed_s = unix_s - manifest.created_unix_s
        lifted = [
            _lift(connection, task, has_gate=rules.has_gate(task, created), elapsed_s=elapsed_s, unix_s=unix_s)
            for task in tasks
        ]
        return tuple(_settle_privacy(connection, one, rules, created) for one in lifted)


def _refuse_filled(database: Database) -> None:
    with changed_database(database) as connection:
        if not is_empty(connection):
            raise ConfigError(f"{database}: there is a database with content; a restore never replaces one")


def _load(connection: Connection, backup: OpenedBackup) -> None:
    # An older backup is loaded into the schema of its own time, and the upgrades then treat its rows as they treat all.
    migrations.upgrade(connection, backup.manifest.revision)
    names = {name.removeprefix("tables/").removesuffix(".jsonl") for name in backup.names("tables/")}
    known = [table.name for table in METADATA.sorted_tables if table.name not in LEFT_BEHIND]
    strange = sorted(names - set(known))
    if strange:
        raise TrustError(f"the backup has a table {strange[0]}, which is none of ours")
    for name in known:
        if name in names:
            load_table(connection, name, backup.lines(f"tables/{name}.jsonl"))
    migrations.upgrade(connection)


def _forget_grants(connection: Connection, revoked: Iterable[str]) -> None:
    """End tokens that nobody had used, and keep revoked devices out."""
    connection.execute(TOKENS.delete().where(TOKENS.c.serial.is_(None)))
    shut_out = select(CERTIFICATES.c.device).where(CERTIFICATES.c.serial.in_(list(revoked)))
    connection.execute(DEVICES.update().where(DEVICES.c.device.in_(shut_out)).values(status="revoked"))
    connection.execute(DEVICES.update().where(DEVICES.c.status == "revoked").values(is_shut_out=False))


def _lift(connection: Connection, task: str, *, has_gate: bool, elapsed_s: float, unix_s: float) -> Lifted:
    of_task = select(ROUNDS.c.round, ROUNDS.c.state).where(ROUNDS.c.task == task).order_by(ROUNDS.c.round.desc())
    latest, state = connection.execute(of_task.limit(1)).one()
    if state not in FINAL_STATES:
        _give_up(connection, task, latest, unix_s=unix_s)
    versions, standings = _versions(connection, task)
    found = statuses(versions, standings, has_gate=has_gate)
    newest = versions[-1]
    origin = next(one for one in reversed(versions) if found[one.version] == "promoted" or one.version == 0)
    version, round_ = raised(newest.version, elapsed_s=elapsed_s), raised(latest, elapsed_s=elapsed_s)
    why = "restored from a backup"
    if found[newest.version] == "candidate":  # nobody will judge it any more
        _decide(connection, task, newest.version, "rejected", f"{why} before its verdict", None, unix_s)
    new = VersionRecord(task=task, version=version, round=None, state=origin.state, n_updates=0, created_unix_s=unix_s)
    connection.execute(VERSIONS.insert(), version_row(new))
    _decide(connection, task, version, "promoted", why, origin.version, unix_s)
    copy_figures(connection, task, origin.version, version)
    connection.execute(ROUNDS.insert(), plain(_marking(task, round_, version, unix_s=unix_s)))
    given_up = None if state in FINAL_STATES else latest
    return Lifted(task=task, round=round_, version=version, origin=origin.version, discarded_round=given_up)


def _settle_privacy(
    connection: Connection, lifted: Lifted, rules: RestoreRules, created: tuple[CreatedTask, ...]
) -> Lifted:
    is_stopped = rules.must_stop(lifted.task, sql_privacy.entries_of(connection, lifted.task), created)
    if is_stopped:
        connection.execute(TASKS.update().where(TASKS.c.task == lifted.task).values(state="stopped"))
    return replace(lifted, is_stopped=is_stopped)


def _marking(task: str, round_: int, version: int, *, unix_s: float) -> RoundRecord:
    """Return an ended round without devices, whose number the next one follows."""
    return RoundRecord(
        task=task,
        round=round_,
        version=version,
        state="abandoned",
        opened_unix_s=unix_s,
        deadline_unix_s=unix_s,
        closed_unix_s=unix_s,
    )


def _give_up(connection: Connection, task: str, round_: int, *, unix_s: float) -> None:
    """End a round whatever its state: the service from which the backup came may have folded it since."""
    this = and_(ROUNDS.c.task == task, ROUNDS.c.round == round_)
    connection.execute(ROUNDS.update().where(this).values(state="abandoned", closed_unix_s=unix_s))
    connection.execute(UPDATES.update().where(sql_buffers.is_folded_in(task, round_)).values(status="discarded"))
    paid = and_(PRIVACY_LEDGER.c.task == task, PRIVACY_LEDGER.c.round == round_)
    connection.execute(PRIVACY_LEDGER.update().where(paid).values(noise_seed=None))
    for table in (SUM_MESSAGES, SUM_STEPS, SUMS):
        connection.execute(table.delete().where(table.c.task == task, table.c.round == round_))


def _versions(connection: Connection, task: str) -> tuple[list[VersionRecord], dict[int, Standing]]:
    query = select(VERSIONS).where(VERSIONS.c.task == task).order_by(VERSIONS.c.version)
    rows = connection.execute(query).mappings()
    versions = [VersionRecord(**{**row, "state": json.loads(row["state"])}) for row in rows]
    decided = connection.execute(select(STANDINGS).where(STANDINGS.c.task == task)).mappings()
    return versions, {row["version"]: Standing(**row) for row in decided}


def _decide(  # noqa: PLR0913, PLR0917 - a row
    connection: Connection, task: str, version: int, status: str, why: str, origin: int | None, unix_s: float
) -> None:
    row = {"task": task, "version": version, "status": status, "why": why, "origin": origin, "decided_unix_s": unix_s}
    connection.execute(STANDINGS.insert(), row)
