"""Ends this process when the process that started it ends, however that happens."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Final

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_POLL_S: Final = 1.0


def die_with_parent(parent: int, signal_number: int = signal.SIGKILL) -> None:
    """Arrange that this process gets ``signal_number`` when ``parent`` (a process id) is gone, also after kill -9.

    On Linux by prctl(2), which fires when the parent's *thread* that started us ends, so start children from a thread
    that lives on; elsewhere by looking for a new parent once a second.
    """
    is_linux: bool = sys.platform == "linux"  # a variable, so that type checkers look at both ways
    if is_linux:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl
            os.kill(os.getpid(), signal_number)
        return
    threading.Thread(target=_watch, args=(parent, signal_number), name="parent-watch", daemon=True).start()


def _watch(parent: int, signal_number: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal_number)
