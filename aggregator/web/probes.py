"""Is it alive, is it ready: for the system that starts the service again, and for the one that sends it work."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from host.certificates import load_pem
from host.durable import remove, write_bytes
from protocol.errors import ConfigError, EdgefoldError, StorageError

if TYPE_CHECKING:
    from aggregator.folders import Folders
    from aggregator.web.sources import Sources

__all__ = ["check_ready", "free_bytes"]


def free_bytes(folders: Folders) -> int:
    """Return how much of the disk under ``service.folder`` is free to us.

    Raises:
        StorageError: the folder is gone.
    """
    try:
        return shutil.disk_usage(folders.root).free
    except OSError as error:
        raise StorageError(f"{folders.root}: {error.strerror}") from error


def check_ready(sources: Sources) -> dict[str, bool]:
    """Return each condition for taking work, and whether it holds."""
    settings = sources.config.http
    return {
        "pump": sources.pulse.is_turning(time.monotonic()),
        "broker": sources.pulse.is_link_up,
        "store": _is_writable(sources),
        "disk": settings is not None and free_bytes(sources.folders) >= settings.min_free_bytes,
        "authority": _holds_issuing(sources),
    }


def _holds_issuing(sources: Sources) -> bool:
    settings = sources.config.authority
    if settings is None:
        return True
    try:
        return load_pem(Path(settings.folder) / "issuing.pem")[0].not_valid_after_utc.timestamp() > time.time()
    except ConfigError:
        return False


def _is_writable(sources: Sources) -> bool:
    probe = sources.folders.root / "readyz.probe"
    try:
        sources.store.tasks()
        write_bytes(probe, b"1")  # the same durable write as every blob's
        remove(probe)
    except EdgefoldError:
        return False
    return True
