"""Durable writes: after ``write_bytes`` returns, the whole new file survives a power cut; before, the whole old one.

The one way in which edgefold writes a file that matters: a temporary file in the same folder, flush, fsync of the file,
``os.replace``, fsync of the folder (POSIX rename(2): the name points at the old or at the new file, never at half).
Leftover temporary files are swept by ``sweep`` when their owner starts.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import StorageError

if TYPE_CHECKING:
    from io import FileIO

__all__ = ["TEMP_PREFIX", "make_folder", "open_plain", "read_bytes", "remove", "sweep", "sync_folder", "write_bytes"]

TEMP_PREFIX = ".partial-"  # a name that no reader of ours ever opens
_CHUNK_BYTES = 65_536  # read at least, where a file does not say how long it is (those of /proc)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``, durably and at once; its folder must exist.

    Raises:
        StorageError: the disk is full, read-only or gone; ``path`` is whole, and the old file unless the very last step
            (making the new name durable) failed.
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
        sync_folder(path.parent)
    except OSError as error:
        if temp is not None:
            with contextlib.suppress(OSError):  # what cannot be removed now is swept later
                Path(temp).unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def open_plain(path: Path, *, follow_links: bool = True) -> FileIO:
    """Return ``path`` opened for reading, unbuffered, if it is a plain file; never waits for a pipe's other end.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it is a folder, a pipe, a device, or (unless ``follow_links``) a link, or may not be read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StorageError(f"{path}: cannot be read: not a plain file")
    return open(fd, "rb", buffering=0)  # noqa: PTH123 - a descriptor, not a path


def read_bytes(path: Path, *, max_bytes: int, follow_links: bool = True) -> bytes:
    """Return the content of ``path``, of at most ``max_bytes``.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it is longer than the bound, no plain file, or cannot be read.
    """
    with open_plain(path, follow_links=follow_links) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > max_bytes:
            raise StorageError(f"{path}: longer than {max_bytes} bytes")
        chunks, n_left = [], max_bytes + 1
        try:
            # Never asks for the whole bound: a buffer of so much costs more than the reading of a short file.
            while n_left > 0 and (chunk := file.read(min(n_left, max(n_bytes, _CHUNK_BYTES)))):
                chunks.append(chunk)
                n_left -= len(chunk)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if n_left == 0:
        raise StorageError(f"{path}: longer than {max_bytes} bytes")
    if len(chunks) == 1:
        return chunks[0]
    return b"".join(chunks)


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
    """Remove ``path`` if it is there, durably.

    Raises:
        StorageError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed: {error.strerror}") from error


def sweep(folder: Path) -> None:
    """Remove what an interrupted ``write_bytes`` left in ``folder``."""
    with contextlib.suppress(OSError):
        for path in folder.glob(TEMP_PREFIX + "*"):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make what was renamed or removed in ``folder`` survive a power cut.

    Raises:
        OSError: it cannot.
    """
    fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
