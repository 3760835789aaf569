"""Alembic's way in: runs the revisions on the connection that ``upgrade`` brought."""

from __future__ import annotations

from alembic import context

# SQLite can undo DDL, but Alembic and the driver assume it cannot: ``upgrade`` began the transaction itself, so that a
# kill in the middle leaves the database as it was.
context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
