"""A vendor's image of a disk: opened into a plain file, and looked at without starting or mounting anything.

Laws: the image is a stranger's: unpacking has a bound (``MAX_IMAGE_BYTES``, and 256 MiB of memory), what is read of it
has one each; what is not understood is refused in one line that says what was expected. The vendor's file stays as it
is.
"""

from __future__ import annotations

import lzma
import re
import struct
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Final

from deploy.flash.ext4_files import Ext4Files, read_superblock
from deploy.flash.partitions import read_partitions
from deploy.flash.sparse_files import copy_sparse, require_room
from protocol.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.flash.ext4_files import Inode
    from deploy.flash.partitions import Partition, PartitionTable

__all__ = ["MAX_IMAGE_BYTES", "BaseSystem", "find_system", "open_base", "size_of_base"]

MAX_IMAGE_BYTES: Final = 32 << 30  # the largest that vendors give out, Jetson's, are about 21 GB
_MAX_UNPACKING_BYTES: Final = 256 << 20  # xz -9 takes 65 MiB
_CHUNK_BYTES: Final = 1 << 20
_MAX_TEXT_BYTES: Final = 1 << 20
_MAX_INTERPRETER_BYTES: Final = 128 << 20
_PYTHONS: Final = ("3.13", "3.12", "3.11")
_SYSTEMD: Final = (PurePosixPath("/usr/lib/systemd/systemd"), PurePosixPath("/lib/systemd/systemd"))
# ELF header, e_machine: System V ABI and its supplements.
_PLATFORMS: Final = {(2, 183): "linux-aarch64", (2, 62): "linux-x86_64"}
_OTHERS: Final = {(1, 40): "32-bit ARM", (1, 3): "32-bit x86", (2, 243): "RISC-V"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSystem:
    """The system in an image.

    Attributes:
        name: what it calls itself.
        platform: as wheelhouses name it, linux-aarch64 or linux-x86_64.
        python: such as 3.11.
        interpreter: its path.
        table: the image's partitions.
        partition: where the system is.
        texts: files of /etc that get lines, as they are; a missing one is not among them.
        inodes: whose those files are.
    """

    name: str
    platform: str
    python: str
    interpreter: str
    table: PartitionTable
    partition: Partition
    texts: dict[PurePosixPath, str] = field(repr=False)
    inodes: dict[PurePosixPath, Inode] = field(repr=False)


_TEXTS: Final = tuple(
    PurePosixPath("/etc", name) for name in ("passwd", "group", "shadow", "gshadow", "hosts", "hostname")
)


def open_base(base: Path, image: Path) -> None:
    """Write the image ``base``, packed or not, to the new file ``image``.

    Raises:
        ConfigError: no such file, not whole, too large, or no room for it (the user's fault).
    """
    size_bytes = size_of_base(base)
    if base.suffix in {".zip", ".gz", ".zst", ".bz2", ".7z"}:
        raise ConfigError(f"{base}: packed as {base.suffix}; unpack it first: expected .img or .img.xz")
    if base.suffix != ".xz":
        _require_size(base, base.stat().st_size)
        require_room(image.parent, size_bytes, "a copy of the image")
        copy_sparse(base, image)
        return
    n_bytes = n_written = 0
    with base.open("rb") as source, image.open("xb") as file:
        for chunk in _unpacked(source, base):
            n_bytes += len(chunk)
            _require_size(base, n_bytes)
            if chunk.count(0) == len(chunk):
                file.seek(len(chunk), 1)  # a hole
                continue
            if n_written % (256 * _CHUNK_BYTES) < _CHUNK_BYTES:
                require_room(image.parent, len(chunk), "the rest of the image")
            n_written += file.write(chunk)
        file.truncate(n_bytes)


def size_of_base(base: Path) -> int:
    """Return how much disk the image ``base`` takes at least once it is open.

    Raises:
        ConfigError: there is no such file (the user's fault).
    """
    if not base.is_file():
        raise ConfigError(f"{base}: no such image")
    return base.stat().st_blocks * 512


def find_system(image: Path) -> BaseSystem:
    """Return the system that is in the opened image ``image``.

    Raises:
        ConfigError: there is none that can have an agent; the line says why (the image's fault).
    """
    table, found = read_partitions(image), []
    for one in table.partitions:
        superblock = read_superblock(image, one.start_bytes)
        if superblock is None:
            continue
        found.append(one)
        if superblock.size_bytes > one.size_bytes:
            raise ConfigError(f"{image}: the file system of partition {one.number} is larger than the partition")
        try:
            system = _system_in(Ext4Files(image, one.start_bytes), table, one)
        except EngineError as error:
            raise ConfigError(f"{image}: partition {one.number} cannot be read: {error}") from error
        if system is not None:
            return system
    if not found:
        raise ConfigError(f"{image}: no ext4 file system in it; expected Debian, Ubuntu, or what is like them")
    raise ConfigError(f"{image}: no system with systemd on its ext4 partitions; expected Debian, Ubuntu, or the like")


def _system_in(files: Ext4Files, table: PartitionTable, partition: Partition) -> BaseSystem | None:
    if all(files.inode(path) is None for path in _SYSTEMD):
        return None
    python, interpreter = _python_of(files)
    machine = _machine_of(files, PurePosixPath(interpreter))
    if machine not in _PLATFORMS:
        kind = _OTHERS.get(machine, f"machine {machine[1]} of {machine[0] * 32} bits")
        raise ConfigError(f"a system for {kind}: expected 64-bit ARM or x86-64; take the vendor's 64-bit image")
    texts = {path: data.decode("utf-8") for path in _TEXTS if (data := _text(files, path)) is not None}
    return BaseSystem(
        name=_name_of(files),
        platform=_PLATFORMS[machine],
        python=python,
        interpreter=interpreter,
        table=table,
        partition=partition,
        texts=texts,
        inodes={path: inode for path in texts if (inode := files.inode(path)) is not None},
    )


def _python_of(files: Ext4Files) -> tuple[str, str]:
    names = files.names(PurePosixPath("/usr/bin"))
    there = sorted(name for name, kind in names.items() if kind == "file" and re.fullmatch(r"python3\.\d{1,2}", name))
    for version in _PYTHONS:
        if f"python{version}" in there:
            return version, f"/usr/bin/python{version}"
    said = f"{', '.join(there)} is" if there else "none is"
    raise ConfigError(f"expected Python 3.11, 3.12 or 3.13 in the image's /usr/bin, {said} there; take a newer image")


def _machine_of(files: Ext4Files, path: PurePosixPath) -> tuple[int, int]:
    """Return class (1 is 32 bits, 2 is 64) and machine of a program, by its ELF header."""
    head = (files.read(path, max_bytes=_MAX_INTERPRETER_BYTES) or b"")[:20]
    if len(head) < 20 or head[:4] != b"\x7fELF" or head[5] not in {1, 2}:
        raise ConfigError(f"{path} in the image: expected a program, an ELF file")
    return int(head[4]), int(struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)[0])


def _name_of(files: Ext4Files) -> str:
    text = _text(files, PurePosixPath("/usr/lib/os-release")) or _text(files, PurePosixPath("/etc/os-release")) or b""
    found = re.search(rb'^PRETTY_NAME="?([\x20-\x21\x23-\x7e]{1,80})"?$', text, re.MULTILINE)
    return found[1].decode() if found else "a system without a name"


def _text(files: Ext4Files, path: PurePosixPath) -> bytes | None:
    data = files.read(path, max_bytes=_MAX_TEXT_BYTES)
    try:
        return None if data is None else data.decode("utf-8").encode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} in the image: not UTF-8 text") from error


def _require_size(base: Path, n_bytes: int) -> None:
    if n_bytes > MAX_IMAGE_BYTES:
        raise ConfigError(f"{base}: more than {MAX_IMAGE_BYTES >> 30} GiB; no vendor's image is so large")


def _unpacked(source: IO[bytes], base: Path) -> Iterator[bytes]:
    """Yield the content of an .xz file of one or more streams, bounded in memory whatever it asks for."""
    decoder, pending = None, b""
    try:
        while pending or (decoder is not None and not decoder.needs_input) or (pending := source.read(_CHUNK_BYTES)):
            if decoder is None:
                pending = pending.lstrip(b"\0")  # padding between streams
                if not pending:
                    continue
                decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_UNPACKING_BYTES)
            if chunk := decoder.decompress(pending, max_length=_CHUNK_BYTES):
                yield chunk
            pending = b""
            if decoder.eof:
                pending, decoder = decoder.unused_data, None
    except (lzma.LZMAError, EOFError, MemoryError) as error:
        raise ConfigError(f"{base}: not an .xz file that can be unpacked: {error}") from error
    if decoder is not None:
        raise ConfigError(f"{base}: not a whole .xz file: it was cut off")
