"""Notices that an operator has changed a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ChangedFile"]


class ChangedFile:
    """One file, by its time and its length; one that is gone counts as changed once."""

    def __init__(self, path: Path) -> None:
        """Take the file as it is now for the known one."""
        self._path = path
        self._stamp = self._stamp_now()

    def has_changed(self) -> bool:
        """Return whether it is another than at the last call."""
        known, self._stamp = self._stamp, self._stamp_now()
        return known != self._stamp

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size
