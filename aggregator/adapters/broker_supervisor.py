"""Starts the service's own broker and brings it back, with growing waits, whenever it dies.

Also makes it read its files again when the revocation list changes, whoever wrote that. Does not know MQTT:
``adapters.broker`` starts processes, this decides when.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from host.logs import event
from protocol.errors import ConfigError, StorageError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Protocol

    class _Process(Protocol):
        """What is needed of ``BrokerProcess``."""

        @property
        def kind(self) -> str: ...
        @property
        def host(self) -> str: ...
        @property
        def port(self) -> int: ...
        @property
        def is_alive(self) -> bool: ...
        def start(self) -> None: ...
        def stop(self) -> None: ...
        def reload(self) -> None: ...


__all__ = ["BrokerSupervisor"]

_FIRST_WAIT_S: Final = 0.2
_MAX_WAIT_S: Final = 30.0
_HEALTHY_S: Final = 30.0  # after this long alive, the next death counts as the first again
# A broker of ours whose service was killed ends by itself, and Mosquitto writes its whole database first.
_PREDECESSOR_S: Final = 6.0
_POLL_S: Final = 0.2


class BrokerSupervisor:
    """Implements ``aggregator.ports.Supervisor`` for a broker process."""

    def __init__(
        self,
        process: _Process,
        *,
        may_have_predecessor: bool,
        sleep: Callable[[float], None] = time.sleep,
        watched: Path | None = None,
    ) -> None:
        """Start the broker.

        Args:
            process: the broker, not started.
            may_have_predecessor: a service ran here before: if the port is in use, its broker is given time to end.
            sleep: how to wait for that.
            watched: the revocation list.

        Raises:
            ConfigError: the port is in use, or the broker is not installed.
            TransportError: it does not start; its log says why.
        """
        self._process, self._watched, self._stamp = process, watched, _stamp(watched)
        self._n_deaths, self._retry_at, self._alive_since = 0, 0.0, 0.0
        n_tries = int(_PREDECESSOR_S / _POLL_S) if may_have_predecessor else 1
        for left in reversed(range(n_tries)):
            try:
                self._start()
                break
            except ConfigError:
                if left == 0:
                    raise
                sleep(_POLL_S)

    @property
    def port(self) -> int:
        """Where the broker listens."""
        return self._process.port

    def tick(self, monotonic_s: float) -> None:
        """Bring the broker back if it died and the wait is over."""
        if self._process.is_alive:
            self._alive_since = self._alive_since or monotonic_s
            self._reload_if_changed()
            if self._n_deaths and monotonic_s - self._alive_since > _HEALTHY_S:
                self._n_deaths = 0
            return
        if self._alive_since:
            self._died("its process ended", monotonic_s)
        if monotonic_s < self._retry_at:
            return
        try:
            self._start()
        except (ConfigError, StorageError, TransportError) as error:
            self._died(str(error), monotonic_s)

    def close(self) -> None:
        """End the broker in good order."""
        self._process.stop()

    def _reload_if_changed(self) -> None:
        stamp = _stamp(self._watched)
        if stamp != self._stamp:
            self._stamp = stamp
            self._process.reload()
            event("broker-reloaded")

    def _start(self) -> None:
        self._stamp = _stamp(self._watched)
        self._process.start()
        event("broker-started", kind=self._process.kind, host=self._process.host, port=self._process.port)

    def _died(self, why: str, monotonic_s: float) -> None:
        self._alive_since = 0.0
        self._retry_at = monotonic_s + min(_MAX_WAIT_S, _FIRST_WAIT_S * 2.0**self._n_deaths)
        self._n_deaths += 1
        event("broker-died", level=logging.ERROR, why=why)


def _stamp(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
