"""Resident memory of a process, from the operating system's own accounting."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["peak_bytes", "resident_bytes"]


def peak_bytes() -> int:
    """Return this process's peak resident set since it was executed.

    Linux's ``ru_maxrss`` also counts the parent's memory at the fork, so ``VmHWM`` is read where there is one.
    """
    high_water = _status_bytes(Path("/proc/self/status"), "VmHWM")
    if high_water is not None:
        return high_water
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes(pid: int) -> int | None:
    """Return the resident set of ``pid`` now, or None where it can't be known."""
    return _status_bytes(Path(f"/proc/{pid}/status"), "VmRSS")


def _status_bytes(path: Path, key: str) -> int | None:
    try:
        for line in path.read_text("ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == key:
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError):
        return None
    return None
