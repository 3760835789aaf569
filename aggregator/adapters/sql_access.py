"""Tokens of the HTTP interface in the service's database.

Laws: every writing method is one transaction; the command line writes, the HTTP thread only reads, so a revoked token
is refused from the next request on.
"""

from __future__ import annotations

from sqlalchemy import select

from aggregator.adapters.sql_database import SqlDatabase, insert_into
from aggregator.adapters.tables import HTTP_TOKENS
from aggregator.core.access import AccessRecord
from protocol.errors import ConfigError

__all__ = ["MAX_TOKENS", "SqlAccess"]

MAX_TOKENS = 1000  # each request is compared with all of them


class SqlAccess(SqlDatabase):
    """Gives out and takes back tokens; ``close`` it at the end."""

    def tokens(self) -> list[AccessRecord]:
        """Return all tokens by name."""
        columns = [HTTP_TOKENS.c[name] for name in AccessRecord.__dataclass_fields__]
        with self._reading() as connection:
            rows = connection.execute(select(*columns).order_by(HTTP_TOKENS.c.name)).mappings()
            return [AccessRecord(**row) for row in rows]

    def add(self, token: AccessRecord) -> None:
        """Keep a new token; what has expired is forgotten.

        Raises:
            ConfigError: the name is taken, or there are too many (the user's fault).
        """
        row = {name: getattr(token, name) for name in token.__dataclass_fields__}
        with self._writing() as connection:
            connection.execute(HTTP_TOKENS.delete().where(HTTP_TOKENS.c.expires_unix_s <= token.created_unix_s))
            if len(connection.execute(select(HTTP_TOKENS.c.name)).all()) >= MAX_TOKENS:
                raise ConfigError(
                    f"there are {MAX_TOKENS} tokens already; take some back: edgefold serve tokens --revoke NAME"
                )
            put = insert_into(connection, HTTP_TOKENS).values(row).on_conflict_do_nothing()
            if connection.execute(put.returning(HTTP_TOKENS.c.name)).first() is None:
                raise ConfigError(f"there is a token {token.name} already; edgefold serve tokens lists them")

    def revoke(self, name: str) -> None:
        """Forget a token.

        Raises:
            ConfigError: there is none of that name (the user's fault).
        """
        with self._writing() as connection:
            if connection.execute(HTTP_TOKENS.delete().where(HTTP_TOKENS.c.name == name)).rowcount == 0:
                raise ConfigError(f"there is no token {name}; edgefold serve tokens lists them")
