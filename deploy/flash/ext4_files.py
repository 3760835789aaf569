"""Files inside an ext4 file system that lies somewhere in an image: read and put there by debugfs, as any user.

Laws: what is read has a bound, checked before; every change is told to debugfs on its standard input, and a line that
it complains about ends the whole (its exit code says nothing); paths inside an image never lead out of it, since
debugfs follows its links itself; e2fsck has the last word.
"""

from __future__ import annotations

import re
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from deploy.flash.programs import require_programs, run_program, run_program_aloud
from deploy.flash.sparse_files import copy_range
from protocol.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Change", "Ext4Files", "FileIn", "FolderIn", "Inode", "LinkIn", "Superblock", "TreeIn", "read_superblock"]

_MAGIC: Final = 0xEF53
_SUPERBLOCK_AT: Final = 1024
_64_BIT, _RECOVER = 0x80, 0x4  # of the incompatible features
_UNSAFE: Final = re.compile(r'["\\\x00-\x1f\x7f]')
_KINDS: Final = {0o040000: "folder", 0o100000: "file", 0o120000: "link"}
_NOT_FOUND: Final = "File not found"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIn:
    """A file to put in, over what is there; missing folders above it are root's."""

    path: PurePosixPath
    data: bytes = field(repr=False)  # may be a secret
    mode: int = 0o644
    user_id: int = 0
    group_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderIn:
    """A folder; one that is there already keeps what is in it."""

    path: PurePosixPath
    mode: int = 0o755
    user_id: int = 0
    group_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkIn:
    """A symbolic link, over whatever link or file is there."""

    path: PurePosixPath
    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeIn:
    """A folder of this machine with all that is below it, or a file of it; ``path`` must not be there yet.

    Files that their owner may run are for everybody to run; modes are the narrower ones where ``is_private``.
    """

    source: Path
    path: PurePosixPath
    user_id: int = 0
    group_id: int = 0
    is_private: bool = False


Change: TypeAlias = FileIn | FolderIn | LinkIn | TreeIn


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """What a path is."""

    kind: Literal["file", "folder", "link", "other"]
    mode: int
    user_id: int
    group_id: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What an ext4 file system says of itself; ext4's documentation of the disk layout, "Super Block"."""

    block_bytes: int
    n_blocks: int
    n_reserved: int
    n_free: int
    n_free_inodes: int
    needs_recovery: bool  # its journal holds what the file system lacks

    @property
    def size_bytes(self) -> int:
        """Of the whole file system."""
        return self.block_bytes * self.n_blocks

    @property
    def free_bytes(self) -> int:
        """What somebody other than root may still write."""
        return self.block_bytes * max(0, self.n_free - self.n_reserved)


def read_superblock(image: Path, offset: int) -> Superblock | None:
    """Return the superblock of the ext2, 3 or 4 file system at ``offset``, or None if there is none."""
    with image.open("rb") as file:
        file.seek(offset + _SUPERBLOCK_AT)
        raw = file.read(1024)
    if len(raw) < 1024 or struct.unpack_from("<H", raw, 56)[0] != _MAGIC:
        return None
    (log_size,) = struct.unpack_from("<I", raw, 24)
    if log_size > 6:  # 64 KiB, the largest there is
        return None
    low, high = struct.unpack_from("<4I", raw, 4), struct.unpack_from("<3I", raw, 0x150)
    (incompatible,) = struct.unpack_from("<I", raw, 96)
    wide = high if incompatible & _64_BIT else (0, 0, 0)
    n_blocks, n_reserved, n_free = (a | b << 32 for a, b in zip(low[:3], wide, strict=True))
    return Superblock(
        block_bytes=1024 << log_size,
        n_blocks=n_blocks,
        n_reserved=n_reserved,
        n_free=n_free,
        n_free_inodes=low[3],
        needs_recovery=bool(incompatible & _RECOVER),
    )


class Ext4Files:
    """The file system at ``offset`` of ``image``."""

    def __init__(self, image: Path, offset: int) -> None:
        """Name it.

        Raises:
            ConfigError: a path that e2fsprogs would read otherwise; a program is missing.
        """
        if "?" in str(image):
            raise ConfigError(f"{image}: a path with a question mark; build elsewhere (--work)")
        self._programs = require_programs(["debugfs", "e2fsck", "resize2fs"])
        self._image, self._offset = image, offset
        self._place = f"{image}?offset={offset}"

    def inode(self, path: PurePosixPath) -> Inode | None:
        """Return what ``path`` is, its last link not followed, or None if it is not there.

        Raises:
            EngineError: the file system cannot be read.
        """
        said = self._ask(f"stat {_quoted(path)}", may_lack=True)
        head = re.search(rb"Type: (\w+)\s+Mode:\s+([0-7]+)", said)
        owner = re.search(rb"User:\s*(\d+)\s+Group:\s*(\d+)(?:\s+Project:\s*\d+)?\s+Size: (\d+)", said)
        if head is None or owner is None:
            return None
        kinds: dict[bytes, Literal["file", "folder", "link"]] = {
            b"regular": "file",
            b"directory": "folder",
            b"symlink": "link",
        }
        user_id, group_id, size_bytes = map(int, owner.groups())
        return Inode(
            kind=kinds.get(head[1], "other"),
            mode=int(head[2], 8) & 0o7777,
            user_id=user_id,
            group_id=group_id,
            size_bytes=size_bytes,
        )

    def names(self, folder: PurePosixPath) -> dict[str, str]:
        """Return the names in ``folder`` and what each is: file, folder, link, other; none if there is no such folder.

        Raises:
            EngineError: the file system cannot be read.
        """
        found = {}
        for line in self._ask(f"ls -p {_quoted(folder)}", may_lack=True).decode("utf-8", "replace").splitlines():
            fields = line.split("/")  # /inode/mode/user/group/name/size/
            if len(fields) == 8 and fields[2] and fields[5] not in {".", ".."}:
                found[fields[5]] = _KINDS.get(int(fields[2], 8) & 0o170000, "other")
        return found

    def read(self, path: PurePosixPath, *, max_bytes: int) -> bytes | None:
        """Return the content of the file at ``path``, or None if there is none; a link there is not followed.

        Raises:
            ConfigError: it is larger (the image's fault).
            EngineError: the file system cannot be read.
        """
        found = self.inode(path)
        if found is None or found.kind != "file":
            return None
        if found.size_bytes > max_bytes:
            raise ConfigError(f"{path} in the image: {found.size_bytes} bytes, expected at most {max_bytes}")
        return self._ask(f"cat {_quoted(path)}")

    def apply(self, changes: Iterable[Change]) -> None:
        """Make the changes, in their order.

        Raises:
            EngineError: debugfs complained, as when there is no room; the file system is then spoilt.
        """
        with tempfile.TemporaryDirectory(prefix="edgefold-inject-") as name:
            made: set[PurePosixPath] = {PurePosixPath("/")}
            lines = [line for change in changes for line in self._lines(change, Path(name), made)]
            script = "".join(f"{line}\n" for line in lines).encode()
            argv = (self._programs["debugfs"], "-w", "-f", "-", self._place)
            _refuse_complaints(run_program_aloud(argv, told=script)[1])

    def check(self) -> None:
        """Have e2fsck look at all of it and change nothing.

        Raises:
            EngineError: it is damaged.
        """
        self._fsck(self._place, "-n", ok={0})

    def recover(self) -> None:
        """Replay its journal if it was not unmounted, as the first mount would; else nothing happens.

        Raises:
            EngineError: it is damaged.
        """
        superblock = read_superblock(self._image, self._offset)
        if superblock is not None and superblock.needs_recovery:
            self._apart(superblock, lambda path: self._fsck(str(path), "-p", ok={0, 1}))

    def resize(self, size_bytes: int) -> None:
        """Let it fill ``size_bytes``, which its partition has.

        Raises:
            EngineError: it cannot, or it is damaged.
        """

        def work(path: Path) -> None:
            self._fsck(str(path), "-p", ok={0, 1})  # resize2fs wants it so
            run_program((self._programs["resize2fs"], str(path), f"{size_bytes // 1024}k"))

        superblock = read_superblock(self._image, self._offset)
        if superblock is None:
            raise EngineError(f"{self._image}: no ext4 file system at {self._offset}")
        self._apart(superblock, work)

    def _apart(self, superblock: Superblock, work: Callable[[Path], None]) -> None:
        """Do ``work`` on a copy of what is in use, beside the image, and bring it back.

        For what e2fsprogs 1.47 cannot do at an offset: resize2fs cuts a plain file to the size of its file system as if
        that began at 0, and e2fsck forgets the offset when it opens a file system again after replaying its journal.
        """
        apart = self._image.with_name(f"{self._image.name}.system")
        try:
            with apart.open("xb") as file, self._image.open("rb") as image:
                copy_range(image, self._offset, file, 0, superblock.size_bytes)
                file.truncate(superblock.size_bytes)
            work(apart)
            with apart.open("rb") as file, self._image.open("r+b") as image:
                copy_range(file, 0, image, self._offset, apart.stat().st_size)
        finally:
            apart.unlink(missing_ok=True)

    def _fsck(self, place: str, how: str, *, ok: set[int]) -> None:
        said, complaint, code = run_program_aloud((self._programs["e2fsck"], "-f", how, place), is_checked=False)
        if code not in ok:  # e2fsck(8): 1 is "errors corrected", 4 and more are what is left
            last = (complaint.partition(b"\n")[2] or said).decode("utf-8", "replace").strip().splitlines()[-1:]
            raise EngineError(f"e2fsck finds the file system damaged{': ' if last else ''}{''.join(last)[:300]}")

    def _ask(self, request: str, *, may_lack: bool = False) -> bytes:
        said, complaint, _ = run_program_aloud((self._programs["debugfs"], "-R", request, self._place))
        if may_lack and _NOT_FOUND.encode() in complaint:
            return b""
        _refuse_complaints(complaint)
        return said

    def _lines(self, change: Change, staged: Path, made: set[PurePosixPath]) -> Iterator[str]:
        yield from self._parents(change.path, made)
        found = None if change.path in made else self.inode(change.path)
        if isinstance(change, FolderIn):
            if found is None and change.path not in made:
                yield f"mkdir {_quoted(change.path)}"
            made.add(change.path)
            yield from _owned(change.path, change.mode | 0o040000, change.user_id, change.group_id)
            return
        if found is not None:
            if found.kind == "folder" or isinstance(change, TreeIn):
                raise EngineError(f"{change.path}: is in the image already")
            yield f"rm {_quoted(change.path)}"
        if isinstance(change, LinkIn):
            yield f"symlink {_quoted(change.path)} {_quoted(PurePosixPath(change.to))}"
        elif isinstance(change, FileIn):
            source = staged / str(sum(1 for _ in staged.iterdir()))
            source.touch(mode=0o600)
            source.write_bytes(change.data)
            yield f"write {_quoted(PurePosixPath(source))} {_quoted(change.path)}"
            yield from _owned(change.path, change.mode | 0o100000, change.user_id, change.group_id)
        else:
            yield from _tree(change, made)

    def _parents(self, path: PurePosixPath, made: set[PurePosixPath]) -> Iterator[str]:
        for parent in reversed(path.parents):
            if parent not in made:
                made.add(parent)
                if self.inode(parent) is None:
                    yield f"mkdir {_quoted(parent)}"


def _tree(change: TreeIn, made: set[PurePosixPath]) -> Iterator[str]:
    paths = [change.source, *sorted(change.source.rglob("*"))] if change.source.is_dir() else [change.source]
    for path in paths:
        inner = change.path / path.relative_to(change.source).as_posix()
        if path.is_symlink():
            raise EngineError(f"{path}: a link; only files and folders go into an image")
        if path.is_dir():
            yield f"mkdir {_quoted(inner)}"
            made.add(inner)
            mode = 0o040700 if change.is_private else 0o040755
        else:
            yield f"write {_quoted(PurePosixPath(path))} {_quoted(inner)}"
            is_program = path.stat().st_mode & 0o100 and not change.is_private
            mode = 0o100755 if is_program else 0o100600 if change.is_private else 0o100644
        yield from _owned(inner, mode, change.user_id, change.group_id)


def _owned(path: PurePosixPath, mode: int, user_id: int, group_id: int) -> Iterator[str]:
    for name, value in (("mode", f"0{mode:o}"), ("uid", user_id), ("gid", group_id)):
        yield f"set_inode_field {_quoted(path)} {name} {value}"


def _quoted(path: PurePosixPath) -> str:
    text = str(path)
    if _UNSAFE.search(text) or not text.isascii():
        raise EngineError(f"{text!r}: such a name cannot go into an image")
    return f'"{text}"'


def _refuse_complaints(complaint: bytes) -> None:
    lines = complaint.decode("utf-8", "replace").strip().splitlines()
    if lines and lines[0].startswith("debugfs "):  # its version
        lines = lines[1:]
    if lines:
        raise EngineError(f"debugfs: {lines[0][:300]}")
