"""One service at a time on one state: a lock that ends with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

__all__ = ["hold_folder"]


def hold_folder(folder: Path, stack: ExitStack, *, hint: str = "") -> None:
    """Hold ``folder`` until ``stack`` closes; flock(2) ends with the process.

    Raises:
        ConfigError: a service runs on it; ``hint`` says what to do then (the user's fault).
        StorageError: the lock cannot be made.
    """
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"{folder}: another edgefold serve runs on this folder{hint}") from error
    except OSError as error:
        raise StorageError(f"{folder}/lock: {error.strerror}") from error
