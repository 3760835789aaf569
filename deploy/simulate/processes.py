"""Which processes a process of ours has started, as Linux tells it in /proc; elsewhere none."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["children", "command_of"]


def children(pid: int) -> list[int]:
    """Return the ids of the processes that ``pid`` started and that live."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def command_of(pid: int) -> str:
    """Return a process's command line; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""
