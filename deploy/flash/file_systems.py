"""File systems in plain files: ext4 by mkfs.ext4 and debugfs, FAT by mkfs.vfat and mtools. No root, no loop device.

The folder that an ext4 file system is made of belongs to whoever runs this, so owners are set inside the finished
file system, by debugfs. The same way files are put into a file system that is part of a disk image (``inject``):
e2fsprogs and mtools both take an offset.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from deploy.flash.programs import require_programs, run_program
from protocol.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.flash.steps import Entry, MakeExt4, MakeVfat

__all__ = ["make_ext4", "make_vfat", "owner_script"]

_MIB: Final = 1 << 20
_INODE_BYTES: Final = 16384  # mkfs.ext4's default bytes an inode
_OVERHEAD: Final = 1.08  # inode tables, the journal aside
_JOURNAL_BYTES: Final = 16 << 20


def make_ext4(step: MakeExt4) -> None:
    """Make ``step.out``.

    Raises:
        EngineError: a program failed.
    """
    programs = require_programs(["mkfs.ext4", "debugfs"])
    n_bytes, n_files = _measure(step.folder)
    # A small tree of many files needs more inodes than its size alone gives.
    size = int((n_bytes + n_files * 512) * _OVERHEAD) + step.free_bytes + _JOURNAL_BYTES
    size = -(-size // _MIB) * _MIB
    options = ("-q", "-F", "-m", "0", "-L", step.label, "-d", str(step.folder), "-E", "root_owner=0:0")
    inodes = max(size // _INODE_BYTES, int(n_files * 1.2) + 1024)
    run_program((programs["mkfs.ext4"], *options, "-N", str(inodes), str(step.out), f"{size // 1024}k"))
    script = "".join(owner_script(step.folder, step.owners))
    if script:
        run_program((programs["debugfs"], "-w", "-f", "-", str(step.out)), told=script.encode())


def owner_script(folder: Path, owners: Sequence[Entry]) -> Iterator[str]:
    """Yield debugfs commands for every path whose owner in the file system differs from the folder's.

    Raises:
        EngineError: a name that debugfs cannot be told.
    """
    for path in _walk(folder):
        inner = PurePosixPath(path.relative_to(folder).as_posix())
        user_id, group_id = _owner(inner, owners)
        status = path.lstat()
        name = str(inner)
        if any(mark in name for mark in ('"', "\n", "\\")) and (status.st_uid, status.st_gid) != (user_id, group_id):
            raise EngineError(f"{name!r}: such a name cannot go into an image")
        if status.st_uid != user_id:
            yield f'set_inode_field "/{name}" uid {user_id}\n'
        if status.st_gid != group_id:
            yield f'set_inode_field "/{name}" gid {group_id}\n'


def make_vfat(step: MakeVfat) -> None:
    """Make ``step.out``.

    Raises:
        EngineError: a program failed, as when the files do not fit.
    """
    programs = require_programs(["mkfs.vfat", "mcopy"])
    with step.out.open("wb") as file:
        file.truncate(step.size_bytes)
    run_program((programs["mkfs.vfat"], "-F", "32", "-n", step.label, str(step.out)))
    names = [str(path) for path in sorted(step.folder.iterdir())]
    run_program((programs["mcopy"], "-i", str(step.out), *names, "::"))


def _owner(path: PurePosixPath, owners: Sequence[Entry]) -> tuple[int, int]:
    for entry in owners:
        if path == entry.path or (entry.is_deep and path.is_relative_to(entry.path)):
            return entry.user_id, entry.group_id
    return 0, 0


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        for name in sorted(folders + names):
            yield Path(here, name)


def _measure(folder: Path) -> tuple[int, int]:
    """Return the bytes and the number of the files below ``folder``, blocks rounded up."""
    n_bytes = n_files = 0
    for path in _walk(folder):
        n_bytes += -(-path.lstat().st_size // 4096) * 4096
        n_files += 1
    return n_bytes, n_files
