"""Cuts this process's power at its n-th durable step: a file opened to write, synced, renamed, removed, a folder made.

What was written and not yet synced is lost in part, as after a real cut: at an fsync the file loses its tail first. The
process ends by SIGKILL, so that nothing of it tidies up.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_STEPS: Final = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


class PowerCut:
    """Counts the steps below a folder; there is one in a process, and it stays."""

    def __init__(self, folder: Path, *, at: int | None, kept_fraction: float) -> None:
        """Cut before step number ``at``, counted from 1 (None: never), keeping that much of an unsynced file."""
        self._folder, self._at, self._kept = str(folder), at, kept_fraction
        self.n_steps = 0
        self._sync: Callable[[int], None] = os.fsync
        os.fsync = self._on_sync  # type: ignore[assignment]
        sys.addaudithook(self._on_event)

    def _on_event(self, name: str, arguments: tuple[object, ...]) -> None:
        if name == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif name in _STEPS:
            path = arguments[0]
        else:
            return
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self._folder):
            self._step()

    def _on_sync(self, fd: int) -> None:
        info = os.fstat(fd)
        if self._is_next() and stat.S_ISREG(info.st_mode):
            os.ftruncate(fd, int(info.st_size * self._kept))
        self._step()
        self._sync(fd)

    def _is_next(self) -> bool:
        return self._at is not None and self.n_steps + 1 >= self._at

    def _step(self) -> None:
        if self._is_next():
            os.kill(os.getpid(), signal.SIGKILL)
        self.n_steps += 1
