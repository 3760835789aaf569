"""Waits for a database or blobs that went away, and says so; everything else waits with it.

Laws: nothing is acknowledged meanwhile, so the broker and the devices keep what they have; a service whose lock another
one took is over after ``HELD_S``, not at once, since a server that was restarted may hold our own old lock a little.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from aggregator.adapters.sql_database import SqlDatabase
from aggregator.away import AwayError, DatabaseAwayError
from host.logs import event
from protocol.errors import ConfigError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from aggregator.adapters.engines import Database
    from aggregator.blob_place import BlobPlace

__all__ = ["HELD_S", "Outage"]

HELD_S: Final = 60.0  # TCP keepalives end a connection that is dead after 25 s
_TRY_EVERY_S: Final = 1.0
_SAY_EVERY_S: Final = 30.0
_AWAY: Final = {"database": "database-away", "blobs": "blobs-away"}
_BACK: Final = {"database": "database-back", "blobs": "blobs-back"}


class Outage:
    """Knows how to ask whether the storage is there."""

    def __init__(self, database: Database, blobs: BlobPlace | None = None) -> None:
        """Ask for ``database`` and, if they may be away too, ``blobs``."""
        self._database, self._blobs = database, blobs

    def wait(
        self,
        why: AwayError,
        stop: threading.Event,
        *,
        resume: Callable[[], None],
    ) -> bool:
        """Try to ``resume`` until it goes well; return whether it did, or ``stop`` was set.

        Raises:
            ConfigError: another service took the database over.
            StorageError: it came back as something else.
        """
        began_s, said_s, part = time.monotonic(), 0.0, why.part
        while not stop.is_set():
            now_s = time.monotonic()
            if now_s - said_s >= _SAY_EVERY_S or not said_s:
                said_s = now_s
                seconds = round(now_s - began_s, 1)
                event(_AWAY[why.part], level=logging.WARNING, seconds=seconds, why=str(why))
            stop.wait(_TRY_EVERY_S)
            try:
                SqlDatabase(self._database).close()
                if self._blobs is not None:
                    self._blobs.owner()
                resume()
            except AwayError as error:
                why = error
            except ConfigError as error:
                if now_s - began_s > HELD_S:
                    raise
                why = DatabaseAwayError(str(error))
            else:
                event(_BACK[part], seconds=round(time.monotonic() - began_s, 1))
                return True
        return False
