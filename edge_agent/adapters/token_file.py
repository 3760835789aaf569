"""The file that an enrolment token is brought in, and its erasure.

Laws: what others may read is refused; erasing overwrites the bytes in place before the name goes, and says so only
after the disk has it. On flash memory the controller may keep the old page; a token works once, so what is left of it
is worth nothing from then on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from host.durable import open_plain, read_bytes, remove
from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["erase_token", "read_token"]

_MAX_BYTES: Final = 4096  # a token has 150 characters


def read_token(path: Path) -> str:
    """Return the token in ``path``.

    Raises:
        ConfigError: no such file, one that others may read, or no text (the user's fault).
    """
    try:
        data = read_bytes(path, max_bytes=_MAX_BYTES)
        with open_plain(path) as file:
            mode = os.fstat(file.fileno()).st_mode
        text = data.decode("ascii").strip()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: holds no token") from error
    except StorageError as error:
        raise ConfigError(str(error)) from error
    if mode & 0o077:
        raise ConfigError(f"{path}: others may read the token; run: chmod 600 {path}")
    return text


def erase_token(path: Path) -> None:
    """Overwrite the token and remove its file, durably; nothing happens if it is gone already.

    Raises:
        StorageError: it could not be erased.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(fd, bytes(os.fstat(fd).st_size))
            os.fsync(fd)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path}: cannot be erased: {error.strerror}") from error
    remove(path)
