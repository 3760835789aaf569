"""Copies of large files that are mostly holes, and whether there is room for them."""

from __future__ import annotations

import errno
import os
import shutil
from typing import IO, TYPE_CHECKING, Final

from deploy.flash.programs import require_programs, run_program
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["copy_range", "copy_sparse", "require_room"]

_SPARE_BYTES: Final = 64 << 20
_CHUNK_BYTES: Final = 1 << 20


def require_room(folder: Path, n_bytes: int, what: str) -> None:
    """Check that ``folder``, or what of it there is, has room.

    Raises:
        ConfigError: it has not; the line says how much there would have to be.
    """
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    if free < n_bytes + _SPARE_BYTES:
        raise ConfigError(f"{there}: {free / 1e9:.1f} GB are free, {what} takes {n_bytes / 1e9:.1f} GB")


def copy_sparse(source: Path, to: Path) -> None:
    """Copy a file: its holes stay holes, and the file system shares its blocks if it can.

    Raises:
        EngineError: there is no room, or it cannot be read.
    """
    run_program((require_programs(["cp"])["cp"], "--sparse=always", "--reflink=auto", "--", str(source), str(to)))


def copy_range(source: IO[bytes], start: int, to: IO[bytes], at: int, n_bytes: int) -> None:
    """Copy bytes between files; zeros are not written where there is a hole."""
    for done in range(0, n_bytes, _CHUNK_BYTES):
        source.seek(start + done)
        chunk = source.read(min(_CHUNK_BYTES, n_bytes - done))
        is_empty = chunk.count(0) == len(chunk)
        if is_empty and not _holds_data(to, at + done, len(chunk)):
            continue
        to.seek(at + done)
        to.write(chunk)


def _holds_data(file: IO[bytes], at: int, n_bytes: int) -> bool:
    """Return whether the file has anything but holes there. lseek(2): SEEK_DATA fails with ENXIO behind the last."""
    file.flush()
    try:
        return os.lseek(file.fileno(), at, os.SEEK_DATA) < at + n_bytes
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
