"""Waits for a database that went away, and says so; everything else waits with it.

Laws: nothing is acknowledged meanwhile, so the broker and the devices keep what they have; a service whose lock another
one took is over after ``HELD_S``, not at once, since a server that was restarted may hold our own old lock a little.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from aggregator.adapters.sql_database import SqlDatabase
from aggregator.ports import DatabaseAwayError
from host.logs import event
from protocol.errors import ConfigError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from aggregator.adapters.engines import Database

__all__ = ["HELD_S", "Outage"]

HELD_S: Final = 60.0  # TCP keepalives end a connection that is dead after 25 s
_TRY_EVERY_S: Final = 1.0
_SAY_EVERY_S: Final = 30.0


class Outage:
    """Knows how to ask whether the database is there."""

    def __init__(self, database: Database) -> None:
        """Ask for ``database``."""
        self._database = database

    def wait(
        self,
        why: DatabaseAwayError,
        stop: threading.Event,
        *,
        resume: Callable[[], None],
    ) -> bool:
        """Try to ``resume`` until it goes well; return whether it did, or ``stop`` was set.

        Raises:
            ConfigError: another service took the database over.
            StorageError: it came back as something else.
        """
        began_s, said_s = time.monotonic(), 0.0
        while not stop.is_set():
            now_s = time.monotonic()
            if now_s - said_s >= _SAY_EVERY_S or not said_s:
                said_s = now_s
                event("database-away", level=logging.WARNING, seconds=round(now_s - began_s, 1), why=str(why))
            stop.wait(_TRY_EVERY_S)
            try:
                SqlDatabase(self._database).close()
                resume()
            except DatabaseAwayError as error:
                why = error
            except ConfigError as error:
                if now_s - began_s > HELD_S:
                    raise
                why = DatabaseAwayError(str(error))
            else:
                event("database-back", seconds=round(time.monotonic() - began_s, 1))
                return True
        return False
