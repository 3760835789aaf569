"""Fetches the bundles that announced tasks need, one at a time, on a thread of its own.

Laws: the agent's thread asks and takes, the other thread only fetches; a failed connection is tried again after a fully
jittered, growing wait; a server that gave wrong bytes, or a disk without room, is left alone for long; bundles that a
task or job needs are never removed for room.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from typing import TYPE_CHECKING, Final

from edge_agent.adapters.fetched_bundles import NoRoomError
from host.logs import event as log
from protocol.errors import EdgefoldError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from pathlib import Path

    from edge_agent.adapters.fetched_bundles import FetchedBundles, Files
    from host.bundle_folder import Bundle

__all__ = ["BundleFetch"]

_FIRST_WAIT_S: Final = 2.0
_MAX_WAIT_S: Final = 300.0
_MAX_DOUBLINGS: Final = 10  # beyond it the wait is at its bound anyway
_REFUSED_WAIT_S: Final = 3600.0  # wrong bytes and full disks do not mend by asking


class BundleFetch:
    """Brings what is missing."""

    def __init__(
        self,
        folder: FetchedBundles,
        files: Files,
        *,
        take: Callable[[Bundle], None],
        wake: Callable[[], None],
        test: Callable[[Bundle], None] = lambda _bundle: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fetch from ``files`` into ``folder``.

        Args:
            folder: where bundles are kept.
            files: where they come from.
            take: looks at a new bundle on the agent's thread; raises ``EdgefoldError`` if it is of no use here.
            wake: makes the agent look at ``turn``; called from the fetching thread.
            test: tries a new bundle, on the fetching thread; raises ``EdgefoldError`` if it does not work here: then
                it is tried again later, without fetching it again.
            clock: seconds that only grow.
        """
        self._folder, self._files, self._take, self._wake, self._clock = folder, files, take, wake, clock
        self._test = test
        self._thread: threading.Thread | None = None
        self._ends: queue.SimpleQueue[tuple[str, Bundle | EdgefoldError]] = queue.SimpleQueue()
        self._due_s: dict[str, float] = {}
        self._n_failures: dict[str, int] = {}
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    def turn(self, needed: set[str], held: MutableMapping[str, Path]) -> bool:
        """Take what came into ``held`` and begin with the next; return whether anything came.

        Args:
            needed: the ids of the bundles of announced tasks and of the present job.
            held: folders of the checked bundles by id.
        """
        has_new = False
        while not self._ends.empty():
            has_new |= self._on_end(*self._ends.get(), needed, held)
        if self._thread is None:
            due = [one for one in sorted(needed - held.keys()) if self._due_s.get(one, 0.0) <= self._clock()]
            if due:
                self._begin(due[0], needed)
        return has_new

    def _begin(self, wanted: str, needed: set[str]) -> None:
        log("bundle-fetching", bundle_id=wanted)
        self._folder.drop_partial(needed)
        self._thread = threading.Thread(target=self._fetch, args=(wanted,), name="bundle-fetch", daemon=True)
        self._thread.start()

    def _fetch(self, wanted: str) -> None:
        try:
            bundle = self._folder.fetch(wanted, self._files)
            self._test(bundle)
            self._ends.put((wanted, bundle))
        except EdgefoldError as error:
            self._ends.put((wanted, error))
        self._wake()

    def _on_end(
        self, wanted: str, outcome: Bundle | EdgefoldError, needed: set[str], held: MutableMapping[str, Path]
    ) -> bool:
        self._thread = None
        if not isinstance(outcome, EdgefoldError):
            try:
                self._take(outcome)
            except EdgefoldError as error:
                outcome = error
            else:
                self._n_failures.pop(wanted, None)
                log("bundle-fetched", bundle_id=wanted)
                held[wanted] = outcome.folder
                return True
        if isinstance(outcome, NoRoomError) and self._make_room(outcome.n_bytes, needed, held):
            return False  # again at once
        self._wait(wanted, outcome)
        return False

    def _make_room(self, n_bytes: int, needed: set[str], held: MutableMapping[str, Path]) -> bool:
        removed = self._folder.make_room(n_bytes, keep=needed)
        for one in removed:
            held.pop(one, None)
            log("bundle-removed", bundle_id=one)
        return bool(removed)

    def _wait(self, wanted: str, error: EdgefoldError) -> None:
        n_failures = self._n_failures[wanted] = min(self._n_failures.get(wanted, 0) + 1, _MAX_DOUBLINGS)
        longest = min(_MAX_WAIT_S, _FIRST_WAIT_S * 2.0**n_failures)
        wait_s = self._random.uniform(0, longest) if isinstance(error, TransportError) else _REFUSED_WAIT_S
        self._due_s[wanted] = self._clock() + wait_s
        log("bundle-not-fetched", bundle_id=wanted, error=str(error), again_in_s=round(wait_s, 1))
