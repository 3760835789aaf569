"""One of our programs as a child process: started, restarted when it dies, its log lines read as events.

Stands in for systemd on a laptop: what is killed comes back after a moment; what exits because of a wrong setting does
not, and its one line of explanation is raised.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from host.memory import resident_bytes
from protocol.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["FleetEvent", "Supervised"]

_RESTART_WAIT_S: Final = 0.3
_STOP_WAIT_S: Final = 10.0
_MAX_READ_BYTES: Final = 1 << 20  # of a log, at one poll


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEvent:
    """One line that a program logged: ``source`` is the process's name in the fleet, ``name`` the event's."""

    source: str
    name: str
    facts: dict[str, Any]


class Supervised:
    """One child process and its log file."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        """Describe the process; ``start`` starts it."""
        self.name = name
        self.n_restarts = 0
        self.peak_resident_bytes = 0
        self._arguments, self._log = list(arguments), log
        self._read_to = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._restart_at: float | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process; it ends when this one ends."""
        self._restart_at = None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgefold", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "EDGEFOLD_PARENT": str(os.getpid())},
                start_new_session=True,  # Ctrl-C is for the person's process alone; it ends the others in order
            )

    def keep_running(self) -> None:
        """Restart the process if it was killed.

        Raises:
            ConfigError, EngineError: it ended by itself; the text is its own last line.
        """
        if self._process is None:
            return
        if self._process.poll() is None:
            self.peak_resident_bytes = max(self.peak_resident_bytes, resident_bytes(self._process.pid) or 0)
            return
        if self._restart_at is None:
            code = self._process.returncode
            if code == 0:
                self._process = None  # it was done
                return
            if code > 0:
                raise (ConfigError if code == 2 else EngineError)(
                    f"{self.name} exited with {code}: {self._last_line()}"
                )
            self._restart_at = time.monotonic() + _RESTART_WAIT_S
        elif time.monotonic() >= self._restart_at:
            self.n_restarts += 1
            self.start()

    def kill(self) -> None:
        """End the process with SIGKILL, as a power cut would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Ask the process to end; kill it if it does not."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def new_events(self) -> Iterator[FleetEvent]:
        """Yield the events in the log lines written since the last call."""
        try:
            with self._log.open("rb") as log:
                log.seek(self._read_to)
                data = log.read(_MAX_READ_BYTES)
        except FileNotFoundError:
            return
        whole, _, _ = data.rpartition(b"\n")
        self._read_to += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                facts = json.loads(line)
                yield FleetEvent(source=self.name, name=facts.pop("event"), facts=facts)

    def _last_line(self) -> str:
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else "it wrote nothing"
