"""The trainer processes of a device's rounds, one at a time, and how their ends reach the agent's thread.

Laws: a trainer's own thread only puts its end into a queue and wakes the agent; what an end means is looked at on the
agent's thread; a trainer that was stopped from here is not listened to any more. Knows no session and no work.
"""

from __future__ import annotations

import queue
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from protocol.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_agent.core.session import Event
    from edge_agent.ports import Running
    from protocol.errors import EdgefoldError

__all__ = ["TrainerRuns"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class _Start(Protocol[R_co]):
    """Starts a trainer of a job that it knows."""

    def __call__(self, *, on_end: Callable[[R_co | EdgefoldError], None]) -> Running: ...


class TrainerRuns:
    """At most one running trainer."""

    def __init__(self, *, wake: Callable[[], None]) -> None:
        """Run nothing yet; ``wake`` makes the agent look at ``ended``, and is called from other threads."""
        self._wake = wake
        self._running: Running | None = None
        self._n_stopped = 0  # trainers that were ended from here: what they say later does not count
        self._ends: queue.SimpleQueue[tuple[int, Callable[[], Event | None]]] = queue.SimpleQueue()

    @property
    def running(self) -> Running | None:
        """The trainer, from its start until ``stop`` or ``over``."""
        return self._running

    def start(
        self,
        begin: _Start[R],
        meaning: Callable[[R | EdgefoldError], Event | None],
    ) -> None:
        """Start a trainer.

        Args:
            begin: starts it; its ``EngineError`` is an outcome too.
            meaning: returns what an outcome means to the session; called on the agent's thread, by ``ended``.
        """
        number = self._n_stopped

        def ended(outcome: R | EdgefoldError) -> None:
            self._ends.put((number, partial(meaning, outcome)))  # on the trainer's thread: nothing but this
            self._wake()

        try:
            self._running = begin(on_end=ended)
        except EngineError as error:
            self.fail(error, meaning)

    def fail(self, error: EdgefoldError, meaning: Callable[[R | EdgefoldError], Event | None]) -> None:
        """Let ``ended`` find a trainer that could not even be started."""
        self._ends.put((self._n_stopped, partial(meaning, error)))

    def ended(self) -> Iterator[Event]:
        """Yield what the trainers that ended mean to the session, one after the other has been dealt with."""
        while not self._ends.empty():
            number, meaning = self._ends.get()
            if number == self._n_stopped and (event := meaning()) is not None:
                yield event

    def over(self) -> None:
        """The trainer has ended by itself."""
        self._running = None

    def stop(self) -> None:
        """End the trainer, if one runs."""
        if self._running is not None:
            self._n_stopped += 1
            self._running.close()
            self._running = None
