"""Facts about the database as a whole: which blobs are its own.

Law: the database and its blobs carry the same random id, so that a database that is not theirs (an empty one behind a
changed URL) never takes them for orphans.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from aggregator.adapters.sql_database import SqlDatabase
from aggregator.adapters.tables import SERVICE_FACTS
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from aggregator.blob_place import BlobPlace

__all__ = ["SqlFacts"]

_NAME: Final = "state_id"


class SqlFacts(SqlDatabase):
    """Says whose blobs are whose; ``close`` it at the end."""

    def own(self, blobs: BlobPlace) -> None:
        """Make the database and the place of its blobs known to each other, or find that they are.

        Raises:
            ConfigError: the blobs belong to another database (the user's fault).
            StorageError: either cannot be read or written.
        """
        written = blobs.owner()
        with self._writing() as connection:
            known = connection.execute(select(SERVICE_FACTS.c.value).where(SERVICE_FACTS.c.name == _NAME)).scalar()
            if written is not None and written != known:
                raise ConfigError(
                    f"{blobs}: these blobs belong to another database than {self._database}; put service.database back "
                    "as it was, or move them away"
                )
            if known is None:
                known = secrets.token_hex(16)
                connection.execute(SERVICE_FACTS.insert().values(name=_NAME, value=known))
        if written is None:
            blobs.own(known)

    def check_own(self, blobs: BlobPlace) -> str:
        """Return the id that the database and its blobs carry, if it is one.

        Raises:
            ConfigError: they are another's or, so far, nobody's (the user's fault).
            StorageError: either cannot be read.
        """
        query = select(SERVICE_FACTS.c.value).where(SERVICE_FACTS.c.name == _NAME)
        with self._reading() as connection:
            known = connection.execute(query).scalar()
        if known is None or blobs.owner() != known:
            raise ConfigError(
                f"{blobs}: the service of {self._database} keeps its blobs elsewhere; service.blobs must be the same "
                "place for both"
            )
        return str(known)
