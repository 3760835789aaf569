"""Durable writes: after ``write_bytes`` returns, the whole new file survives a power cut; before, the whole old one.

The one way in which edgefold writes a file that matters: a temporary file in the same folder, flush, fsync of the file,
``os.replace``, fsync of the folder (POSIX rename(2): the name points at the old or at the new file, never at half).
Leftover temporary files are swept by ``sweep`` when their owner starts.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from protocol.errors import StorageError

__all__ = ["TEMP_PREFIX", "make_folder", "read_bytes", "remove", "sweep", "write_bytes"]

TEMP_PREFIX = ".partial-"  # a name that no reader of ours ever opens


def write_bytes(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``, durably and at once; its folder must exist.

    Raises:
        StorageError: the disk is full, read-only or gone; the old file is as it was.
    """
    temp = None
    try:
        fd, temp = tempfile.mkstemp(prefix=TEMP_PREFIX, dir=path.parent)
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temp).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if temp is not None:
            Path(temp).unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    """Return the content of ``path``, of at most ``max_bytes``.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it is longer than the bound, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise StorageError(f"{path}: longer than {max_bytes} bytes")
    return data


def make_folder(path: Path, *, mode: int = 0o700) -> Path:
    """Make ``path`` and its parents if they are missing; return it.

    Raises:
        StorageError: it cannot be made, or is a file.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be made: {error.strerror}") from error
    return path


def remove(path: Path) -> None:
    """Remove ``path`` if it is there, durably."""
    try:
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed: {error.strerror}") from error


def sweep(folder: Path) -> None:
    """Remove what an interrupted ``write_bytes`` left in ``folder``."""
    with contextlib.suppress(OSError):
        for path in folder.glob(TEMP_PREFIX + "*"):
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
