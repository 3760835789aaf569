"""The agent's side of the local process: starts it, starts it again when it ends, and takes it along.

Laws: its end never ends the agent; starts follow each other with a doubling, bounded wait; it loads nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from host.logs import event as log
from protocol.fields import plain

if TYPE_CHECKING:
    from edge_agent.local.orders import Orders

__all__ = ["LocalProcess"]

_FIRST_WAIT_S: Final = 1.0
_MAX_WAIT_S: Final = 300.0
_WELL_S: Final = 60.0  # one that lived so long starts again without a wait
_GRACE_S: Final = 5.0


class LocalProcess:
    """One local process, kept running by ``turn``."""

    def __init__(self, orders: Orders) -> None:
        """Keep the orders; ``turn`` starts."""
        self._orders = orders
        self._process: subprocess.Popen[bytes] | None = None
        self._wait_s, self._due_s, self._started_s = _FIRST_WAIT_S, float("-inf"), 0.0

    def turn(self) -> None:
        """Start the process if it is not there and its time has come; call this again and again."""
        now_s = time.monotonic()
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            log("local-process-ended", code=code)
            self._process = None
            self._wait_s = _FIRST_WAIT_S if now_s - self._started_s > _WELL_S else min(2 * self._wait_s, _MAX_WAIT_S)
            self._due_s = now_s + self._wait_s
        if now_s >= self._due_s:
            self._start()

    def close(self) -> None:
        """End it and wait for it."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()  # it ends by itself; what it answers meanwhile goes out
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start(self) -> None:
        self._started_s = time.monotonic()
        command = [sys.executable, "-m", "edge_agent.local"]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, close_fds=True)
        except OSError as error:
            log("local-process-ended", error=error.strerror)
            self._due_s = self._started_s + _MAX_WAIT_S
            return
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                orders = replace(self._orders, parent=os.getpid())
                self._process.stdin.write(json.dumps(plain(orders)).encode() + b"\n")
                self._process.stdin.flush()
