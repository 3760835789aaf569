"""A child process that ends with ours, whichever of our threads started it.

Laws: on Linux it ends when we end, even by SIGKILL; elsewhere when it is told to; its output is appended to a log that
does not grow over starts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, BinaryIO, Final

from protocol.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BoundChild"]

_MAX_OLD_LOG_BYTES: Final = 1 << 20  # a longer log of earlier runs is dropped at the next start

# Ties a child's life to ours without ``preexec_fn``, which runs Python between fork and exec and may deadlock in a
# threaded parent. The signal survives exec (prctl(2), PR_SET_PDEATHSIG = 1); a parent already dead is seen by its id.
_BIND_TO_PARENT: Final = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(0)
os.execv(sys.argv[2], sys.argv[2:])
"""


class BoundChild:
    """A process that ends with ours; the thread that made it waits for it.

    Linux sends the parent-death signal when the *thread* that forked ends, so a child started from a short-lived
    thread would die early: here that thread lives exactly as long as the child.
    """

    def __init__(self, argv: list[str], *, log: Path) -> None:
        """Start the process; its output is appended to ``log``.

        Raises:
            StorageError: the log cannot be written, or there is no process to be had (the environment's).
        """
        self._program = argv[0]
        self._argv = [sys.executable, "-I", "-S", "-c", _BIND_TO_PARENT, str(os.getpid()), *argv]
        self._log = log
        self._ended = threading.Event()
        spawned: Future[subprocess.Popen[bytes]] = Future()
        threading.Thread(target=self._mind, args=(spawned,), name="child-minder", daemon=True).start()
        self._process = spawned.result()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """``None`` while it runs; negative if a signal ended it."""
        return self._process.returncode if self._ended.is_set() else None

    def end(self, *, grace_s: float) -> None:
        """Ask it to end, then make it, and return when it is gone."""
        self.send(signal.SIGTERM)
        if not self._ended.wait(grace_s):
            self.send(signal.SIGKILL)
            self._ended.wait()  # SIGKILL cannot be refused: no bound is needed

    def send(self, signal_number: int) -> None:
        """Signal it unless it has ended."""
        if not self._ended.is_set():
            self._process.send_signal(signal_number)

    def _mind(self, spawned: Future[subprocess.Popen[bytes]]) -> None:
        """Start it, hand it over, wait for its end."""
        try:
            with _open_log(self._log) as output:
                process = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # Ctrl-C reaches us alone, and we end it in our order
                )
        except OSError as exc:
            spawned.set_exception(StorageError(f"cannot start {self._program}: {exc}"))
            return
        spawned.set_result(process)
        process.wait()
        self._ended.set()


def _open_log(path: Path) -> BinaryIO:
    """Open the log to append, without what is left of a long one."""
    is_long = path.exists() and path.stat().st_size > _MAX_OLD_LOG_BYTES
    return path.open("wb" if is_long else "ab")
