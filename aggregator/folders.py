"""Where a service keeps what, and how its database gets its tables."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from aggregator.adapters import migrations
from aggregator.adapters.engines import PASSWORD_VARIABLE, Database, PostgresDatabase, postgres_of
from aggregator.adapters.sql_database import translated
from aggregator.blob_settings import ObjectPlace, is_url, object_place_of
from host.durable import make_folder
from protocol.errors import StorageError

if TYPE_CHECKING:
    from aggregator.config import Config

__all__ = ["Folders", "upgrade"]

_MIGRATION_DEADLINE_S: Final = 60.0  # a start of Python and of Alembic: 0.7 s here, 10 s on a slow card


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where a service keeps what: under ``service.folder``, database and blobs where the settings say."""

    root: Path
    server: PostgresDatabase | None = None
    blobs_elsewhere: Path | ObjectPlace | None = None  # than under ``root``

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the folders of a service; nothing is made.

        Raises:
            ConfigError: ``service.database`` is no good (the user's fault).
        """
        service = config.service
        server = None
        if service.database is not None:
            server = postgres_of(service.database, password_file=service.database_password_file)
        elsewhere: Path | ObjectPlace | None = None
        if service.blobs is not None and is_url(service.blobs):
            elsewhere = object_place_of(service.blobs, service.object_storage)
        elif service.blobs is not None:
            elsewhere = Path(service.blobs)
        return cls(root=Path(service.folder), server=server, blobs_elsewhere=elsewhere)

    @property
    def database(self) -> Database:
        """Rounds, updates, versions, metrics."""
        return self.server or self.root / "aggregator.db"

    @property
    def has_database(self) -> bool:
        """Whether a service may have run here: a server's database is always there."""
        return self.server is not None or (self.root / "aggregator.db").exists()

    @property
    def blobs(self) -> Path | ObjectPlace:
        """Adapter versions and sealed updates; ``open_blobs`` opens them."""
        return self.blobs_elsewhere or self.root / "blobs"

    @property
    def broker(self) -> Path:
        """The broker's own."""
        return self.root / "broker"

    @property
    def claims(self) -> Path:
        """The claim broker's own."""
        return self.root / "claims"

    @property
    def evaluation(self) -> Path:
        """The adapter under evaluation."""
        return self.root / "evaluation"

    def spent(self, task: str) -> Path:
        """The second record of what a task spent of its privacy budget."""
        return self.root / "privacy" / f"{task}.spent"

    def task_key(self, task: str) -> Path:
        """The first private key that opens a task's updates; later ones lie beside it."""
        return self.root / "keys" / f"{task}.taskkey"


def upgrade(database: Database) -> None:
    """Make the database's tables, or bring them to the newest revision.

    Raises:
        StorageError: it cannot be.
    """
    if isinstance(database, Path):
        make_folder(database.parent)
    with translated(database):
        if migrations.is_current(database):
            return
    # In a child: Alembic would stay in our memory for good.
    where = database.url.render_as_string() if isinstance(database, PostgresDatabase) else str(database)
    secret = (
        {PASSWORD_VARIABLE: database.password} if isinstance(database, PostgresDatabase) and database.password else {}
    )
    command = [sys.executable, "-m", "aggregator.adapters.migrations", where]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_MIGRATION_DEADLINE_S,
            check=False,
            env={**os.environ, **secret},
        )
    except subprocess.TimeoutExpired as error:
        raise StorageError(f"{database}: the upgrade took longer than {_MIGRATION_DEADLINE_S:.0f} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise StorageError(f"{database}: cannot be upgraded: {lines[-1] if lines else 'no reason given'}")
