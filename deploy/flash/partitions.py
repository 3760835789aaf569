"""The partitions of a disk image in a plain file, of the DOS and the GPT kind, read and changed by sfdisk.

Images come from strangers: every number is held against the file's own size before anything is read at it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from deploy.flash.programs import require_programs, run_program
from protocol.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Partition", "PartitionTable", "grow_last", "read_partitions"]

_SECTOR_BYTES: Final = 512  # sfdisk counts in these for a plain file
_MAX_PARTITIONS: Final = 128  # as many as a GPT has room for
_FIRST_LOGICAL: Final = 5  # DOS: those from here on lie inside another
_GPT_END_BYTES: Final = 1 << 20  # the second header needs 33 sectors; all is aligned to one MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition.

    Attributes:
        number: as the kernel names it, from 1 on.
        start_bytes: where it begins.
        size_bytes: its size.
    """

    number: int
    start_bytes: int
    size_bytes: int

    @property
    def end_bytes(self) -> int:
        """The first byte behind it."""
        return self.start_bytes + self.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionTable:
    """The partitions of an image by the place where they begin."""

    kind: Literal["dos", "gpt"]
    partitions: tuple[Partition, ...]

    def can_grow(self, partition: Partition) -> bool:
        """Return whether nothing lies behind ``partition``, nor around it."""
        is_logical = self.kind == "dos" and partition.number >= _FIRST_LOGICAL
        return not is_logical and all(one.start_bytes <= partition.start_bytes for one in self.partitions)


def read_partitions(image: Path) -> PartitionTable:
    """Return the partitions of ``image``, each of which lies within it.

    Raises:
        ConfigError: no table of a known kind, or the file ends before its partitions do (the user's fault).
    """
    sfdisk = require_programs(["sfdisk"])["sfdisk"]
    try:
        table = json.loads(run_program((sfdisk, "--json", str(image)), deadline_s=60))["partitiontable"]
        kind, unit = table["label"], int(table.get("sectorsize", _SECTOR_BYTES))
        found = [_partition(one, unit) for one in table.get("partitions", [])[:_MAX_PARTITIONS]]
    except (EngineError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{image}: no image of a disk: it has no partition table that sfdisk can read") from error
    if kind not in {"dos", "gpt"} or not found:
        raise ConfigError(f"{image}: no image of a disk: expected partitions in a table of the kind dos or gpt")
    n_bytes = image.stat().st_size
    for one in found:
        if one.end_bytes > n_bytes:
            raise ConfigError(
                f"{image}: cut off: its partition {one.number} ends at {one.end_bytes} bytes, the file has {n_bytes}"
            )
    return PartitionTable(kind=kind, partitions=tuple(sorted(found, key=lambda one: one.start_bytes)))


def grow_last(image: Path, table: PartitionTable, partition: Partition, *, size_bytes: int) -> Partition:
    """Give the last partition ``size_bytes``, and the file room for it; its number, type and name stay.

    Raises:
        ConfigError: it is not the last (the image's fault).
        EngineError: sfdisk failed.
    """
    if not table.can_grow(partition):
        raise ConfigError(f"partition {partition.number} cannot grow: it is not the last one of the image")
    end = partition.start_bytes + size_bytes + (_GPT_END_BYTES if table.kind == "gpt" else 0)
    with image.open("r+b") as file:
        file.truncate(max(end, image.stat().st_size))
    sfdisk = require_programs(["sfdisk"])["sfdisk"]
    quiet = ("--quiet", "--no-reread", "--no-tell-kernel", "--force")
    if table.kind == "gpt":
        run_program((sfdisk, *quiet, "--relocate", "gpt-bak-std", str(image)))
    line = f"start={partition.start_bytes // _SECTOR_BYTES}, size={size_bytes // _SECTOR_BYTES}\n"
    run_program((sfdisk, *quiet, "-N", str(partition.number), str(image)), told=line.encode())
    return Partition(number=partition.number, start_bytes=partition.start_bytes, size_bytes=size_bytes)


def _partition(told: dict[str, object], unit: int) -> Partition:
    name, start, size = str(told["node"]), int(str(told["start"])), int(str(told["size"]))
    digits = name[len(name.rstrip("0123456789")) :]
    if start < 1 or size < 1:
        raise ValueError(name)
    return Partition(number=int(digits), start_bytes=start * unit, size_bytes=size * unit)
