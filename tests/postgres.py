"""A real PostgreSQL for tests: one server of the session, and its databases as the service knows them."""

from __future__ import annotations

import psycopg
from sqlalchemy import make_url

from aggregator.adapters.engines import PostgresDatabase
from deploy.database_server import USER, DatabaseServer


class PostgresServer(DatabaseServer):
    """A server that can be killed and started again; ``close`` removes it."""

    def database(self, *, template: PostgresDatabase | None = None) -> PostgresDatabase:
        """Return a new database, empty or a copy of ``template``."""
        of = None if template is None else template.url.database
        return PostgresDatabase(url=make_url(self.url(template=of)))

    def disconnect(self, database: PostgresDatabase) -> None:
        """End all connections to one database."""
        with psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True) as connection:
            of = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(of, [database.url.database])
