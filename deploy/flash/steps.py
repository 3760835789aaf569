"""What can be done to make an image, as values: a plan is a tuple of these, made by pure functions and tested as text.

``workshop`` carries them out. Paths are real paths; nothing is read or written here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path, PurePosixPath

    from deploy.flash.ext4_files import Change
    from deploy.flash.target import BootFile

__all__ = [
    "Accounts",
    "Compile",
    "CopyAgent",
    "CopyTree",
    "DropSetIds",
    "Entry",
    "FillBoot",
    "Folder",
    "Inject",
    "Link",
    "Lists",
    "MakeExt4",
    "MakeInitrd",
    "MakeVfat",
    "Move",
    "Prune",
    "Put",
    "Run",
    "Step",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Run a program; its output is shown if it fails."""

    what: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    deadline_s: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Write a file."""

    path: Path
    data: bytes = field(repr=False)  # may be a secret
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Make an empty folder, in place of whatever is there."""

    path: Path
    mode: int = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Make a symbolic link, over whatever link or file is there."""

    path: Path
    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Remove what matches; patterns are relative to ``root``, and one that matches nothing is no error."""

    root: Path
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """Write passwd, group and shadow of an unpacked system."""

    root: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DropSetIds:
    """Take the set-user and set-group bits from every program: nobody but root logs in, so they only help a thief."""

    root: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTree:
    """Copy a file or a folder with all that is in it."""

    source: Path
    into: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyAgent:
    """Copy this edgefold's own packages, those of a device alone."""

    into: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Compile:
    """Compile Python sources below ``root``, if this interpreter is of the device's version."""

    root: Path
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """Index the kernel's modules, so that they find each other."""

    root: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeInitrd:
    """Write the first stage: busybox, the modules that lead to the system partition, and ``script``."""

    root: Path
    modules: tuple[str, ...]
    script: str
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FillBoot:
    """Collect the boot partition's files in a folder."""

    root: Path
    files: tuple[BootFile, ...]
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Who owns a path of a file system, and with which mode; everything else is root's with the mode that it has."""

    path: PurePosixPath
    user_id: int = 0
    group_id: int = 0
    is_deep: bool = False  # and everything below


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeExt4:
    """Make an ext4 file system of a folder; owners are set inside it, since the folder is whoever's runs this."""

    folder: Path
    label: str
    out: Path
    free_bytes: int
    owners: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeVfat:
    """Make a FAT file system of a folder of files."""

    folder: Path
    label: str
    out: Path
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inject:
    """Put files into the ext4 file system of one partition of a disk image."""

    image: Path
    number: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Move a finished file to where it was asked for, at once."""

    source: Path
    to: Path


Step: TypeAlias = (
    Run
    | Put
    | Folder
    | Link
    | Prune
    | Accounts
    | DropSetIds
    | CopyTree
    | CopyAgent
    | Compile
    | Lists
    | MakeInitrd
    | FillBoot
    | MakeExt4
    | MakeVfat
    | Inject
    | Move
)
