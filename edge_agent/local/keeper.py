"""The store's side of the local process: one thread that reads sources, keeps retention and holds exams.

Laws: one turn each ``store.poll_s``; whatever fails in a turn is said and tried again in the next.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.adapters.example_store import ExampleStore
from edge_agent.local.intake import Intake, intake_routes, read_token
from edge_agent.local.scorekeeper import Scorekeeper
from edge_agent.local.sources import Sources
from host.logs import event as log
from protocol.errors import ConfigError, EdgefoldError

if TYPE_CHECKING:
    from edge_agent.local.loopback_http import Routes
    from edge_agent.local.orders import Orders
    from edge_agent.local.serving import Serving
    from edge_agent.store_settings import StoreSettings

__all__ = ["Keeper"]


class Keeper:
    """Feeds one store and keeps its score."""

    def __init__(self, orders: Orders, store: StoreSettings, serving: Serving) -> None:
        """Open the store once, so that a bad key is an error at the start.

        Raises:
            ConfigError, StorageError: the store or its token cannot be used.
        """
        here = Path(orders.here)
        self._folder, self._settings = here / store.folder, store
        ExampleStore(self._folder).close()
        agent = Path(orders.folder)
        self._scorekeeper = Scorekeeper(agent, serving, orders.continual, replay_examples=store.replay_examples)
        self._intake = Intake(self._folder, store, self._scorekeeper)
        self._token = read_token(agent, make=True) or ""
        self._sources = Sources(
            watch=tuple(here / one for one in store.watch), append=tuple(here / one for one in store.append)
        )

    @property
    def intake(self) -> Intake:
        """The way into the store."""
        return self._intake

    def routes(self) -> Routes:
        """Return the paths by which programs of this machine teach it."""
        return intake_routes(self._intake, self._token)

    def start(self) -> None:
        """Work in a thread of its own until the process ends."""
        threading.Thread(target=self._work, name="local-keeper", daemon=True).start()

    def _work(self) -> None:
        pause = threading.Event()
        while True:
            try:
                self.turn()
            except EdgefoldError as error:
                log("keeper-failed", error=str(error))
            pause.wait(self._settings.poll_s)

    def turn(self) -> None:
        """Read what is new, make room, hold the exam if it is time.

        Raises:
            ConfigError, StorageError: the store cannot be used now.
        """
        store = ExampleStore(self._folder)
        try:
            self._sources.turn(store, self._take)
            self._intake.tidy(store)
        finally:
            store.close()

    def _take(self, rows: list[dict[str, Any]], source: str) -> None:
        try:
            self._intake.add(rows, source)
        except ConfigError as error:  # too long a row: the file is not read again for it
            log("examples-refused", source=source, n=len(rows), error=str(error))
