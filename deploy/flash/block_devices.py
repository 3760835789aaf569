"""Which block devices there are and what uses them, read from /sys and /proc alone.

Laws: a device is refused unless everything said about it was understood: a partition of it mounted, used as swap,
held by device mapper or RAID, or the one that the system itself is on, and it is not written to.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Disk", "Machine", "find_disk"]

_SECTOR_BYTES: Final = 512  # the unit of /sys, whatever the disk's own sectors are
_SYSTEM_PLACES: Final = ("/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var", "/home")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where to read; another root in tests."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A whole disk.

    Attributes:
        name: the kernel's, such as ``sdb``.
        path: the file to write to.
        size_bytes: its size.
        model: what it calls itself.
        is_removable: a card reader, a USB stick.
    """

    name: str
    path: Path
    size_bytes: int
    model: str
    is_removable: bool


def find_disk(device: Path, machine: Machine) -> Disk:
    """Return the disk at ``device`` if it may be written to.

    Raises:
        ConfigError: no whole disk, no card in it, read-only, or in use; the line says by what (the user's fault).
    """
    name = Path(os.path.realpath(device)).name
    folder = machine.sys / "class/block" / name
    if not (folder / "size").is_file():
        raise ConfigError(f"{device}: no block device; plug it in, and see: lsblk")
    if (folder / "partition").exists():
        whole = Path(os.path.realpath(folder)).parent.name
        raise ConfigError(f"{device}: a partition; name the whole disk: {device.with_name(whole)}")
    size_bytes = int(_text(folder / "size") or 0) * _SECTOR_BYTES
    if size_bytes == 0:
        raise ConfigError(f"{device}: no card in it")
    if _text(folder / "ro") == "1":
        raise ConfigError(f"{device}: write-protected; look for a small switch on the card")
    why = _why_in_use(folder, machine)
    if why is not None:
        raise ConfigError(f"{device}: {why}")
    vendor = f"{_text(folder / 'device/vendor')} {_text(folder / 'device/model') or _text(folder / 'device/name')}"
    is_removable = _text(folder / "removable") == "1"
    return Disk(
        name=name,
        path=machine.dev / name,
        size_bytes=size_bytes,
        model=vendor.strip() or "no name",
        is_removable=is_removable,
    )


def _why_in_use(folder: Path, machine: Machine) -> str | None:
    parts = {_text(one / "dev"): one.name for one in (folder, *_partitions(folder))}
    for number, place in _mounts(machine):
        if number in parts:
            is_system = place in _SYSTEM_PLACES
            what = ": this system's own disk" if is_system else "; umount it"
            return f"{parts[number]} is mounted at {place}{what}"
    for line in _text(machine.proc / "swaps").splitlines()[1:]:
        if Path(os.path.realpath(line.split()[0])).name in parts.values():
            return f"{Path(line.split()[0]).name} is used as swap"
    for one in (folder, *_partitions(folder)):
        holders = sorted(path.name for path in (one / "holders").glob("*"))
        if holders:
            return f"{one.name} is used by {', '.join(holders)} (encryption, LVM or RAID)"
    return None


def _partitions(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/partition"))


def _mounts(machine: Machine) -> Iterator[tuple[str, str]]:
    """Yield device numbers and places. proc(5): in mountinfo the third field is major:minor, the fifth the place."""
    for line in _text(machine.proc / "self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 4:
            yield fields[2], fields[4].replace("\\040", " ")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""
