"""The folder of fetched bundles, and how one comes into it: manifest first, file by file, resumed, checked, renamed in.

    <bundle id>/              whole and checked
    .partial-<bundle id>/     being fetched; goes on after a restart

Laws: a folder that is named by an id was checked as a whole before it got the name, in one rename; the manifest's hash
is the id that the service signed, and every length and hash after it is the manifest's, so that the server is believed
nothing; what is there already is hashed again, not trusted; bounds on all bundles together and on the disk's free room
hold before the first byte.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, Final, Protocol

from host.bundle_folder import check_file, open_bundle
from host.durable import TEMP_PREFIX, make_folder, read_bytes, sync_folder, write_bytes
from host.logs import event as log
from protocol.bundle import MANIFEST, MAX_MANIFEST_BYTES, Manifest, bundle_id, file_url_path
from protocol.errors import BundleError, StorageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from host.bundle_folder import Bundle
    from protocol.bundle import FileFacts

__all__ = ["FetchedBundles", "Files", "NoRoomError", "begun_bytes", "whole_folders"]

_ID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SYNC_EVERY_BYTES: Final = 8 << 20  # a power cut costs at most this much of the download


class Files(Protocol):
    """Where the files of bundles come from; ``https_files.HttpsFiles`` is one."""

    def read(self, path: str, *, first: int, n_bytes: int) -> Iterator[bytes]:
        """Yield the file from byte ``first`` on, or, if that cannot be, ``b""`` and then all of it.

        Raises:
            TransportError, TrustError: see ``HttpsFiles.read``.
        """

    def read_small(self, path: str, *, max_bytes: int) -> bytes:
        """Return a whole file.

        Raises:
            TransportError, TrustError: see ``HttpsFiles.read_small``.
        """


class NoRoomError(StorageError):
    """Other fetched bundles must go first.

    Attributes:
        n_bytes: how much of them.
    """

    def __init__(self, message: str, *, n_bytes: int) -> None:
        """Keep how much."""
        super().__init__(message)
        self.n_bytes = n_bytes


class FetchedBundles:
    """Owner of the folder."""

    def __init__(self, folder: Path, *, max_bytes: int, free_bytes: int) -> None:
        """Use ``folder``, made if missing.

        Raises:
            StorageError: it cannot be made.
        """
        self._folder, self._max_bytes, self._free_bytes = make_folder(folder), max_bytes, free_bytes

    def load(self) -> list[Bundle]:
        """Return the whole bundles, checked; one that was damaged is removed, to be fetched again."""
        bundles = []
        for path in whole_folders(self._folder):
            try:
                bundles.append(open_bundle(path, expected_id=path.name))
            except BundleError as error:
                log("bundle-damaged", bundle_id=path.name, error=str(error))
                self._remove(path)
        return bundles

    def fetch(self, wanted: str, files: Files) -> Bundle:
        """Return the bundle ``wanted`` (an id) after fetching what is missing of it; nothing, if it is whole already.

        Raises:
            TransportError: the connection failed; what came is kept, and ``fetch`` again goes on.
            TrustError: the server gave something else (the server's fault); what was wrong is not kept.
            NoRoomError, StorageError: no room for it, or the disk failed.
        """
        partial, whole = self._partial(wanted), self._folder / wanted
        if whole.is_dir():
            return open_bundle(whole, expected_id=wanted)
        make_folder(partial)
        manifest = self._manifest(wanted, partial, files)
        self._refuse_without_room(manifest, partial)
        for name, facts in manifest.files.items():
            _fetch_file(partial / name, file_url_path(wanted, name), facts, files)
        sync_folder(partial)
        try:
            open_bundle(partial, expected_id=wanted)
        except BundleError:
            self._remove(partial)  # its hashes held, so the bundle itself is no good, and would not be next time
            raise
        partial.rename(whole)
        sync_folder(self._folder)
        return open_bundle(whole, expected_id=wanted)

    def drop_partial(self, keep: Collection[str]) -> None:
        """Remove what was begun for other bundles than ``keep``."""
        for path in self._folder.glob(TEMP_PREFIX + "*"):
            if path.name.removeprefix(TEMP_PREFIX) not in keep:
                shutil.rmtree(path, ignore_errors=True)

    def make_room(self, n_bytes: int, *, keep: Collection[str]) -> list[str]:
        """Remove whole bundles that are not in ``keep``, the oldest first, until ``n_bytes`` are free; return ids."""
        removed = []
        for path in sorted(whole_folders(self._folder), key=lambda one: one.stat().st_mtime):
            if n_bytes > 0 and path.name not in keep:
                n_bytes -= _bytes_in(path)
                self._remove(path)
                removed.append(path.name)
        return removed

    def _manifest(self, wanted: str, partial: Path, files: Files) -> Manifest:
        try:
            data = read_bytes(partial / MANIFEST, max_bytes=MAX_MANIFEST_BYTES, follow_links=False)
        except (FileNotFoundError, StorageError):
            data = b""
        if bundle_id(data) != wanted:
            data = files.read_small(file_url_path(wanted, MANIFEST), max_bytes=MAX_MANIFEST_BYTES)
            if bundle_id(data) != wanted:
                raise BundleError(f"expected bundle {wanted[:12]}, the server gave another manifest")
            write_bytes(partial / MANIFEST, data)
        return Manifest.from_bytes(data)

    def _refuse_without_room(self, manifest: Manifest, partial: Path) -> None:
        n_whole = sum(facts.bytes for facts in manifest.files.values())
        if n_whole > self._max_bytes:
            raise StorageError(f"the bundle has {n_whole} bytes, bundles.max_mb allows {self._max_bytes}")
        over = sum(map(_bytes_in, whole_folders(self._folder))) + n_whole - self._max_bytes
        free = shutil.disk_usage(self._folder).free - self._free_bytes
        over = max(over, n_whole - _bytes_in(partial) - free)
        if over > 0:
            raise NoRoomError(f"{over} bytes too few for the bundle, by bundles.max_mb and free_mb", n_bytes=over)

    def _partial(self, wanted: str) -> Path:
        if not _ID.fullmatch(wanted):
            raise BundleError("a bundle's id has 64 hex digits")
        return self._folder / (TEMP_PREFIX + wanted)

    def _remove(self, path: Path) -> None:
        gone = self._folder / f"{TEMP_PREFIX}gone-{path.name.removeprefix(TEMP_PREFIX)}"
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)  # first of all it loses the name that says it is whole
        sync_folder(self._folder)
        shutil.rmtree(gone, ignore_errors=True)


def whole_folders(folder: Path) -> list[Path]:
    """Return the folders of whole bundles, named by their ids; changes nothing."""
    return sorted(path for path in folder.glob("*") if _ID.fullmatch(path.name))


def begun_bytes(folder: Path) -> dict[str, int]:
    """Return how much of each bundle that is being fetched is here, by id; changes nothing."""
    begun = folder.glob(TEMP_PREFIX + "*")
    named = ((path.name.removeprefix(TEMP_PREFIX), path) for path in begun if path.is_dir())
    return {name: _bytes_in(path) for name, path in named if _ID.fullmatch(name)}


def _fetch_file(path: Path, url_path: str, facts: FileFacts, files: Files) -> None:
    n_here = path.stat().st_size if path.is_file() else 0
    if n_here == facts.bytes and _is_right(path, facts):
        return
    if not 0 < n_here < facts.bytes:
        n_here = 0
    _append(path, n_here, url_path, facts, files)
    if n_here and not _is_right(path, facts):  # what was here was not what was fetched, as after a power cut
        _append(path, 0, url_path, facts, files)
    if not _is_right(path, facts):
        path.unlink(missing_ok=True)
        raise BundleError(f"{url_path}: the server gave other bytes than the manifest says")


def _append(path: Path, n_here: int, url_path: str, facts: FileFacts, files: Files) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(path, flags, 0o600), "r+b") as file:
            file.truncate(n_here)
            file.seek(n_here)
            n_unsynced = 0
            for chunk in files.read(url_path, first=n_here, n_bytes=facts.bytes) if facts.bytes else ():
                if not chunk:  # the server begins at the beginning
                    file.truncate(0)
                    file.seek(0)
                file.write(chunk)
                n_unsynced += len(chunk)
                if n_unsynced > _SYNC_EVERY_BYTES:
                    file.flush()
                    os.fsync(file.fileno())
                    n_unsynced = 0
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _is_right(path: Path, facts: FileFacts) -> bool:
    try:
        check_file(path, facts)
    except BundleError:
        return False
    return True


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
