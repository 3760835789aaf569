"""Makes a vendor's image a master of ours: the agent goes into its system, which is neither started nor mounted.

Workflow: open the image -> find the system in it -> a release for that platform and Python, the same as by ssh -> room
for it -> put it in -> e2fsck has the last word. ``vendor_plan`` says what goes in.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from deploy.flash import vendor_plan
from deploy.flash.base_image import find_system, open_base
from deploy.flash.ext4_files import Ext4Files, FileIn, FolderIn, TreeIn, read_superblock
from deploy.flash.partitions import grow_last
from deploy.flash.sparse_files import require_room
from deploy.flash.steps import Inject
from protocol.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from deploy.flash.base_image import BaseSystem
    from deploy.flash.ext4_files import Change
    from deploy.flash.settings import DeviceSetup
    from deploy.flash.wheelhouse import Release

__all__ = ["PROGRAMS", "VendorMaster", "make_vendor_master"]

PROGRAMS: Final = ("sfdisk", "debugfs", "e2fsck", "resize2fs", "cp", "xz")
_MIB: Final = 1 << 20
_ROOM_BYTES: Final = 512 * _MIB  # a second release by ssh, which asks for 400 MB, and what an agent keeps in months
_ROOM_INODES: Final = 512
_INODE_BYTES: Final = 16384  # mkfs.ext4's default bytes an inode


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorMaster:
    """A customised image that is of no device yet.

    Attributes:
        image: the file.
        system: what is in it.
        grown_bytes: by how much its system partition had to grow.
    """

    image: Path
    system: BaseSystem
    grown_bytes: int

    def identity(self, setup: DeviceSetup, image: Path) -> tuple[Inject, ...]:
        """Return the steps that make ``image``, a copy, one device's."""
        changes = vendor_plan.identity_changes(self.system, setup)
        return (Inject(image=image, number=self.system.partition.number, changes=changes),)


def make_vendor_master(
    base: Path,
    setup: DeviceSetup,
    *,
    work: Path,
    release_for: Callable[[BaseSystem], Release],
    watch: Callable[[str], None] = lambda _: None,
) -> VendorMaster:
    """Return the image ``base`` with an agent in it; ``base`` stays as it is.

    Args:
        base: .img or .img.xz.
        setup: what a batch shares: bundles, examples, settings.
        work: an empty folder with room for the image.
        release_for: makes the agent's release for a system.
        watch: told each step.

    Raises:
        ConfigError: the image cannot have an agent; the line says why (the user's or the image's fault).
        EngineError: a program failed.
    """
    image = work / "disk.img"
    watch("open the image")
    open_base(base, image)
    try:
        system = find_system(image)
        watch(f"{system.name}, {system.platform}, Python {system.python}, partition {system.partition.number}")
        vendor_plan.agent_id(system)
        _require_whole(image, system)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(image), str(base))) from error
    release = release_for(system)
    tree = work / "release"
    with tarfile.open(release.path) as archive:
        archive.extractall(tree, filter="data")
    changes = vendor_plan.system_changes(system, setup, release=release.name, tree=tree)
    system, grown = _make_room(image, system, changes, watch)
    watch("put the agent in")
    files = Ext4Files(image, system.partition.start_bytes)
    files.apply(changes)
    watch("check the file system")
    files.check()
    return VendorMaster(image=image, system=system, grown_bytes=grown)


def _require_whole(image: Path, system: BaseSystem) -> None:
    files = Ext4Files(image, system.partition.start_bytes)
    try:
        files.recover()
        files.check()
    except EngineError as error:
        raise ConfigError(f"{image}: {error}") from error


def _make_room(
    image: Path, system: BaseSystem, changes: Sequence[Change], watch: Callable[[str], None]
) -> tuple[BaseSystem, int]:
    """Let the file system, and if need be its partition, grow until the changes fit; return by how many bytes."""
    partition = system.partition
    before = read_superblock(image, partition.start_bytes)
    if before is None:
        raise EngineError(f"{image}: its file system is gone")
    n_bytes, n_inodes = _needed(changes, before.block_bytes)
    lacking = max(
        n_bytes + _ROOM_BYTES - before.free_bytes, (n_inodes + _ROOM_INODES - before.n_free_inodes) * _INODE_BYTES
    )
    if lacking <= 0:
        return system, 0
    # Inode tables and reserved blocks take their share of what is added.
    target = -(-int(before.size_bytes + lacking * 1.15) // _MIB) * _MIB
    if target > partition.size_bytes:
        if not system.table.can_grow(partition):
            raise ConfigError(
                f"its system, partition {partition.number}, has {before.free_bytes / 1e6:.0f} MB free, "
                f"{(n_bytes + _ROOM_BYTES) / 1e6:.0f} MB are needed, and it cannot grow: it is not the last partition"
            )
        require_room(image.parent, target - partition.size_bytes, "the larger image")
        partition = grow_last(image, system.table, partition, size_bytes=target)
    else:
        target = partition.size_bytes
    watch(f"grow its system by {(target - before.size_bytes) / 1e6:.0f} MB")
    Ext4Files(image, partition.start_bytes).resize(target)
    after = read_superblock(image, partition.start_bytes)
    if after is None or after.free_bytes < n_bytes or after.n_free_inodes < n_inodes:
        raise EngineError("its file system did not grow enough")
    return replace(system, partition=partition), target - before.size_bytes


def _needed(changes: Sequence[Change], block_bytes: int) -> tuple[int, int]:
    """Return bytes, in whole blocks, and inodes that the changes take."""
    sizes: list[int] = []
    for change in changes:
        match change:
            case FileIn(data=data):
                sizes.append(len(data))
            case FolderIn():
                sizes.append(block_bytes)
            case TreeIn(source=source):
                paths = [source, *source.rglob("*")]
                sizes += [one.stat().st_size if one.is_file() else block_bytes for one in paths]
            case _:
                sizes.append(0)
    return sum(-(-size // block_bytes) * block_bytes for size in sizes), len(sizes)
