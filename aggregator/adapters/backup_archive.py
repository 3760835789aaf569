"""A backup's file: an uncompressed tar whose last member lists all others with their SHA-256.

Laws: written as a whole or not at all, mode 0600, never over another file; read with suspicion: only plain files under
names of ours (``_KINDS``), each once, none longer than its kind allows, each hash as the manifest says, the manifest
last, so that a file cut short is refused. Nothing is ever unpacked by its name: the caller asks for members.
Memory: one chunk, and the names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Annotated, Final

from host.durable import TEMP_PREFIX, open_plain
from protocol.errors import ConfigError, StorageError, TrustError
from protocol.fields import FieldError, Length, Name, Pattern, Range, plain, structure
from protocol.layout import MAX_PARAMS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FORMAT", "BackupManifest", "Member", "OpenedBackup", "WritingBackup", "opened_backup", "writing_backup"]

FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_MAX_MANIFEST_BYTES: Final = 1 << 30  # 5 million blobs of 200 bytes
_CHUNK_BYTES: Final = 1 << 20
# What may be in a backup, and how long it may be.
_KINDS: Final = (
    (re.compile(r"tables/[a-z_]{1,32}\.jsonl"), 1 << 40),
    (re.compile(r"blobs/[0-9a-f]{64}"), max(4 * MAX_PARAMS, 1 << 30)),
    (re.compile(r"privacy/[a-z0-9][a-z0-9._-]{0,63}\.spent"), 64 << 20),
    (re.compile(r"keys/service\.key(\.mldsa65)?"), 1 << 16),
    (re.compile(r"keys/task/[a-z0-9][a-z0-9._-]{0,63}\.taskkey(\.from-[0-9]{1,10})?"), 1 << 16),
    (re.compile(r"keys/authority/[a-z]{1,32}(-[0-9a-f]{1,40}){0,2}\.(key|pem)"), 1 << 24),  # as in issuing_keys
)

Sha256 = Annotated[str, Pattern(r"[0-9a-f]{64}", "64 lower-case hex digits")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member's length and hash."""

    bytes: Annotated[int, Range(0, 1 << 40)]
    sha256: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupManifest:
    """What a backup is of; ``created_unix_s`` is before anything of it was read."""

    format: Annotated[int, Range(FORMAT, FORMAT)] = FORMAT
    fleet: Name
    revision: Annotated[str, Pattern(r"[0-9]{4}", "four digits")]  # of the database's schema
    created_unix_s: Annotated[float, Range(0, 1e11)]
    has_keys: bool
    members: Annotated[dict[str, Member], Length(0, 10**8)] = dataclasses.field(default_factory=dict)


class WritingBackup:
    """An archive that is being written."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        """Add members to ``tar``."""
        self._tar = tar
        self._members: dict[str, Member] = {}

    def add(self, name: str, file: IO[bytes], *, n_bytes: int) -> None:
        """Add a member of ``n_bytes`` that ``file`` gives."""
        if _limit(name) is None or name in self._members:
            raise StorageError(f"{name}: no member of a backup")
        hashing = _Hashing(file)
        self._put(name, hashing, n_bytes)
        self._members[name] = Member(bytes=n_bytes, sha256=hashing.hexdigest())

    def add_bytes(self, name: str, data: bytes) -> None:
        """Add a member."""
        self.add(name, io.BytesIO(data), n_bytes=len(data))

    def end(self, manifest: BackupManifest) -> BackupManifest:
        """Write the list of what is there, as the last member; return it."""
        manifest = dataclasses.replace(manifest, members=self._members)
        data = json.dumps(plain(manifest)).encode()
        self._put(_MANIFEST, io.BytesIO(data), len(data))
        return manifest

    def _put(self, name: str, file: IO[bytes] | _Hashing, n_bytes: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = n_bytes, 0o600
        self._tar.addfile(info, file)
        self._tar.members.clear()  # type: ignore[attr-defined]  # a list that only grows


@contextmanager
def writing_backup(path: Path) -> Iterator[WritingBackup]:
    """Write an archive: durable as a whole when the block ends, nothing of it if the block raises.

    Raises:
        ConfigError: ``path`` is there already, or its folder is not (the user's fault).
        StorageError: it could not be written.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path}: there is a file already; a backup never replaces another")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder")
    temp = None
    try:
        fd, temp = tempfile.mkstemp(prefix=TEMP_PREFIX, dir=path.parent)
        with open(fd, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:  # noqa: PTH123 - a descriptor
            yield WritingBackup(tar)
            tar.close()
            file.flush()
            os.fsync(file.fileno())
        os.link(temp, path)  # unlike a rename it never replaces what came in the meantime
        _sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temp is not None:
            os.unlink(temp)  # noqa: PTH108 - a string


class OpenedBackup:
    """A whole archive, checked; ``manifest`` says what it has."""

    def __init__(self, path: Path, file: IO[bytes], manifest: BackupManifest, offsets: dict[str, int]) -> None:
        """Read members from ``file`` at ``offsets``."""
        self._path, self._file, self.manifest, self._offsets = path, file, manifest, offsets

    def names(self, prefix: str) -> list[str]:
        """Return the members under ``prefix``, sorted."""
        return sorted(name for name in self._offsets if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        """Return a member whole; for kinds that are small, and blobs."""
        self._file.seek(self._offsets[name])
        data = self._file.read(self.manifest.members[name].bytes)
        if hashlib.sha256(data).hexdigest() != self.manifest.members[name].sha256:
            raise TrustError(f"{self._path}: {name} has changed while it was read")
        return data

    def lines(self, name: str) -> Iterator[bytes]:
        """Return a member's lines one by one; its hash is checked again after the last.

        Raises:
            TrustError: it has changed while it was read.
        """
        self._file.seek(self._offsets[name])
        left, hashed = self.manifest.members[name].bytes, hashlib.sha256()
        while left > 0:
            line = self._file.readline(left)
            if not line:
                break
            left -= len(line)
            hashed.update(line)
            yield line
        if hashed.hexdigest() != self.manifest.members[name].sha256:
            raise TrustError(f"{self._path}: {name} has changed while it was read")


@contextmanager
def opened_backup(path: Path) -> Iterator[OpenedBackup]:
    """Open an archive after reading all of it once.

    Raises:
        ConfigError: there is no such file (the user's fault).
        TrustError: it is no whole backup of ours.
        StorageError: it cannot be read.
    """
    try:
        raw = open_plain(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    with raw, io.BufferedReader(raw) as file:
        try:
            manifest, offsets = _check(file)
        except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
            raise TrustError(f"{path}: not a whole backup of edgefold: {error}") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
        yield OpenedBackup(path, file, manifest, offsets)


def _check(file: IO[bytes]) -> tuple[BackupManifest, dict[str, int]]:
    found, offsets, manifest = {}, {}, None
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # a list that only grows
            if manifest is not None:
                raise ValueError("something follows its manifest")
            if info.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or info.issparse():
                raise ValueError(f"{info.name[:80]!r} is no plain file")
            if info.name == _MANIFEST:
                manifest = _parse(_content(tar, info, max_bytes=_MAX_MANIFEST_BYTES))
                continue
            limit = _limit(info.name)
            if limit is None or info.name in found:
                raise ValueError(f"{info.name[:80]!r} has no place in a backup")
            found[info.name] = _measure(tar, info, max_bytes=limit)
            offsets[info.name] = info.offset_data
    if manifest is None:
        raise ValueError("it was cut short")
    names = found.keys() | manifest.members.keys()
    wrong = sorted(name for name in names if found.get(name) != manifest.members.get(name))
    if wrong:
        raise ValueError(f"{wrong[0]!r} is not what its manifest says")
    return manifest, offsets


def _parse(data: bytes) -> BackupManifest:
    try:
        return structure(BackupManifest, json.loads(data))
    except FieldError as error:
        raise ValueError(f"its manifest: {error}") from error


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo, *, max_bytes: int) -> bytes:
    reader = tar.extractfile(info)
    if reader is None or info.size > max_bytes:
        raise ValueError(f"{info.name[:80]!r} is longer than {max_bytes} bytes")
    return reader.read()


def _measure(tar: tarfile.TarFile, info: tarfile.TarInfo, *, max_bytes: int) -> Member:
    reader = tar.extractfile(info)
    if reader is None or info.size > max_bytes:
        raise ValueError(f"{info.name[:80]!r} is longer than {max_bytes} bytes")
    hashing, n_bytes = _Hashing(reader), 0
    while chunk := hashing.read(_CHUNK_BYTES):
        n_bytes += len(chunk)
    if n_bytes != info.size:
        raise ValueError("it was cut short")
    return Member(bytes=n_bytes, sha256=hashing.hexdigest())


def _limit(name: str) -> int | None:
    return next((limit for pattern, limit in _KINDS if pattern.fullmatch(name)), None)


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def read(self, n_bytes: int = -1) -> bytes:
        data = self._file.read(n_bytes)
        self._hash.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
