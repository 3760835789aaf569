"""Writes an image to a card and reads it back. ``block_devices`` has said that the card may be written to.

Laws: the disk is opened for this process alone (``O_EXCL``: the kernel refuses a mounted block device); the image
must be smaller; every byte is compared after the caches were dropped, so that a worn-out card is found now and not
in the field. Memory: one chunk.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
from typing import IO, TYPE_CHECKING, Final

from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deploy.flash.block_devices import Disk

__all__ = ["size_text", "write_image"]

_CHUNK_BYTES: Final = 4 << 20


def write_image(image: Path, disk: Disk, *, watch: Callable[[str, int], None] = lambda _what, _done: None) -> int:
    """Write ``image``, packed or not, to ``disk``, verify it, and return its bytes.

    Args:
        image: the file.
        disk: from ``find_disk``.
        watch: told ``write`` or ``verify`` and the bytes done.

    Raises:
        ConfigError: no such image, or larger than the disk (the user's fault).
        StorageError: the disk cannot be written, or gives back other bytes.
    """
    digest, n_bytes = hashlib.sha256(), 0
    try:
        fd = os.open(disk.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        hint = "; run this as root" if isinstance(error, PermissionError) else ""
        raise StorageError(f"{disk.path}: cannot be opened: {error.strerror}{hint}") from error
    try:
        for chunk in _chunks(image):
            if n_bytes + len(chunk) > disk.size_bytes:
                raise ConfigError(f"{image}: larger than {disk.name}, which has {size_text(disk.size_bytes)}")
            _write_all(fd, chunk)
            digest.update(chunk)
            n_bytes += len(chunk)
            watch("write", n_bytes)
        os.fsync(fd)
        _verify(fd, disk, digest.digest(), n_bytes, watch)
    except OSError as error:
        raise StorageError(f"{disk.path}: {error.strerror}") from error
    finally:
        os.close(fd)
    return n_bytes


def size_text(n_bytes: int) -> str:
    """Return a size as cards are sold: decimal, in GB with one digit."""
    return f"{n_bytes / 1e9:.1f} GB"


def _verify(fd: int, disk: Disk, expected: bytes, n_bytes: int, watch: Callable[[str, int], None]) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # read what the card has, not what we remember
    os.lseek(fd, 0, os.SEEK_SET)
    digest, n_left = hashlib.sha256(), n_bytes
    while n_left > 0:
        chunk = os.read(fd, min(_CHUNK_BYTES, n_left))
        if not chunk:
            break
        digest.update(chunk)
        n_left -= len(chunk)
        watch("verify", n_bytes - n_left)
    if digest.digest() != expected:
        raise StorageError(f"{disk.path}: gives back other bytes than were written; the card or its reader is broken")


def _write_all(fd: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(fd, view) :]


def _chunks(image: Path) -> Iterator[bytes]:
    try:
        with _opened(image) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except FileNotFoundError as error:
        raise ConfigError(f"{image}: no such image") from error
    except (lzma.LZMAError, EOFError) as error:
        raise ConfigError(f"{image}: not a whole .xz file") from error


def _opened(image: Path) -> IO[bytes]:
    if not stat.S_ISREG(image.stat().st_mode):
        raise ConfigError(f"{image}: not a plain file")
    return lzma.open(image) if image.suffix == ".xz" else image.open("rb")
