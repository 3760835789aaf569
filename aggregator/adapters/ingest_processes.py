"""The service's own ingest workers, as processes: started, and started again with growing waits whenever one ends.

Laws: on Linux they end when the service does, even by SIGKILL; a worker's death takes nothing from the others or from
the service, since what it had not acknowledged comes again.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from host.logs import event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from host.link import BrokerAddress

__all__ = ["IngestProcesses"]

_FIRST_WAIT_S: Final = 0.2
_MAX_WAIT_S: Final = 30.0
_HEALTHY_S: Final = 30.0  # after this long alive, the next death counts as the first again
_STOP_S: Final = 10.0  # a batch, and a request to object storage


class IngestProcesses:
    """Implements ``aggregator.ports.Supervisor``; the first ``tick`` starts the workers."""

    def __init__(self, config_path: Path, names: Sequence[str], *, broker: BrokerAddress) -> None:
        """Let ``names`` take in what ``broker`` hands them, by the settings in ``config_path``."""
        scheme = "mqtts" if broker.is_tls else "mqtt"
        url = f"{scheme}://{broker.host}:{broker.port}"
        command = [sys.executable, "-m", "edgefold", "serve", "ingest", "--config", str(config_path), "--broker", url]
        self._workers = [_Worker(name, [*command, "--name", name]) for name in names]

    def tick(self, monotonic_s: float) -> None:
        """Start those that do not run, if their wait is over."""
        for worker in self._workers:
            worker.tick(monotonic_s)

    def close(self) -> None:
        """End them in good order."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait()


class _Worker:
    """One process and how often it died."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._name, self._command = name, command
        self._process: subprocess.Popen[bytes] | None = None
        self._n_deaths, self._started_s, self._retry_at_s = 0, 0.0, float("-inf")

    def tick(self, now_s: float) -> None:
        if self._process is not None and (code := self._process.poll()) is not None:
            self._n_deaths = 0 if now_s - self._started_s > _HEALTHY_S else self._n_deaths
            self._retry_at_s = now_s + min(_MAX_WAIT_S, _FIRST_WAIT_S * 2.0**self._n_deaths)
            self._n_deaths += 1
            self._process = None
            event("ingest-worker-died", level=logging.ERROR, worker=self._name, code=code)
        if self._process is None and now_s >= self._retry_at_s:
            # One core each: they are as many as there are cores to use.
            environment = {**os.environ, "EDGEFOLD_PARENT": str(os.getpid()), "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, env=environment)
            self._started_s = now_s
            event("ingest-worker-started", worker=self._name, pid=self._process.pid)

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
