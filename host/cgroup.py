"""Puts trainers into a cgroup of their own with limits, where this process may make one (cgroup v2).

The kernel wants a process in a leaf of the tree only (cgroups(7), "no internal processes"), so the caller moves itself
into ``agent`` beside ``trainer``. That is possible for root, and for a service with systemd's ``Delegate=yes``; else
``make_trainer_cgroup`` returns None, and rlimit, niceness and the number of threads are what limits a trainer.

Limits: ``memory.max`` counts everything, mapped weights too, and swapping is off; ``cpu.max`` is a share of all cores.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["enter_cgroup", "make_trainer_cgroup"]

_ROOT: Final = Path("/sys/fs/cgroup")
_SELF: Final = Path("/proc/self/cgroup")
_PERIOD_US: Final = 100_000  # the kernel's default
_CONTROLLERS: Final = ("cpu", "memory")


def make_trainer_cgroup(
    *, memory_bytes: int | None, cpu_fraction: float | None, root: Path = _ROOT, own: Path = _SELF
) -> Path | None:
    """Return the folder of a cgroup with these limits, None where none can be made; moves this process beside it."""
    try:
        lines = own.read_text("ascii").splitlines()
        paths = [line[3:] for line in lines if line.startswith("0::/")]
        if len(paths) != 1 or not (root / "cgroup.controllers").is_file():
            return None
        here = root / paths[0].strip("/")
        if here.name == "agent":  # after a restart inside the same unit
            here = here.parent
        if here == root:  # the machine's own root group: not ours to divide
            return None
        return _divide(here, memory_bytes, cpu_fraction)
    except (OSError, ValueError):
        return None


def enter_cgroup(folder: Path) -> None:
    """Move this process into ``folder``; to be called before anything large is loaded.

    Raises:
        OSError: it is gone, or not ours.
    """
    (folder / "cgroup.procs").write_text(str(os.getpid()), "ascii")


def _divide(here: Path, memory_bytes: int | None, cpu_fraction: float | None) -> Path | None:
    there = (here / "cgroup.controllers").read_text("ascii").split()
    if not set(_CONTROLLERS) <= set(there):
        return None
    agent, trainer = here / "agent", here / "trainer"
    for folder in (agent, trainer):
        folder.mkdir(exist_ok=True)
    enter_cgroup(agent)
    (here / "cgroup.subtree_control").write_text(" ".join(f"+{one}" for one in _CONTROLLERS), "ascii")
    (trainer / "memory.max").write_text("max" if memory_bytes is None else str(memory_bytes), "ascii")
    if (trainer / "memory.swap.max").exists():
        (trainer / "memory.swap.max").write_text("0", "ascii")
    quota_us = "max" if cpu_fraction is None else str(round(cpu_fraction * (os.cpu_count() or 1) * _PERIOD_US))
    (trainer / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}", "ascii")
    return trainer
