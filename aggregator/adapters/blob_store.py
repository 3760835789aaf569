"""Blobs as files in one folder, named by the SHA-256 of their content.

Laws: what ``put`` returned is durable; what ``get`` returns is what its name says; names are ours (hex), so no name can
leave the folder. A blob that no row names is an orphan of a crash and goes at the next start.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from host.durable import make_folder, read_bytes, remove, sweep, write_bytes
from protocol.errors import LocalProtocolError, StorageError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from pathlib import Path

__all__ = ["MAX_OWNER_BYTES", "OWNER", "FolderBlobStore", "checked_name", "is_name"]

OWNER: Final = "OWNER"  # beside the blobs; no name of one
MAX_OWNER_BYTES: Final = 256
_NAME: Final = re.compile(r"[0-9a-f]{64}")


class FolderBlobStore:
    """Implements ``aggregator.blob_place.BlobPlace``."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, which is made if it is missing."""
        self._folder = make_folder(folder)

    def put(self, data: bytes) -> str:
        """Keep ``data`` durably and return its name."""
        name = hashlib.sha256(data).hexdigest()
        write_bytes(self._folder / name, data)
        return name

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return the bytes of ``name``, checked against it."""
        path = self._path(name)
        try:
            data = read_bytes(path, max_bytes=max_bytes)
        except FileNotFoundError as error:
            raise StorageError(f"{path}: missing") from error
        if hashlib.sha256(data).hexdigest() != name:
            raise StorageError(f"{path}: its content has changed")
        return data

    def remove(self, name: str) -> None:
        """Forget ``name``, if it is there."""
        remove(self._path(name))

    def sizes(self) -> dict[str, int]:
        """Return every blob's name and its size in bytes.

        Raises:
            StorageError: the folder cannot be read.
        """
        try:
            found = [path for path in self._folder.iterdir() if is_name(path.name)]
            return {path.name: path.stat().st_size for path in found}
        except OSError as error:
            raise StorageError(f"{self._folder}: {error.strerror}") from error

    def keep_only(self, names: AbstractSet[str]) -> int:
        """Remove every other blob, and what interrupted writes left; return how many blobs went."""
        sweep(self._folder)
        orphans = [p for p in self._folder.iterdir() if is_name(p.name) and p.name not in names]
        for path in orphans:
            remove(path)
        return len(orphans)

    def owner(self) -> str | None:
        """Return the id of the database whose blobs these are; None if nobody's."""
        path = self._folder / OWNER
        return read_bytes(path, max_bytes=MAX_OWNER_BYTES).decode("ascii", "replace").strip() if path.exists() else None

    def own(self, owner: str) -> None:
        """Keep whose blobs these are."""
        write_bytes(self._folder / OWNER, f"{owner}\n".encode())

    def disown(self) -> None:
        """Let the next database that is put beside these blobs take them."""
        remove(self._folder / OWNER)

    def close(self) -> None:
        """Do nothing: nothing is open between two calls."""

    def __str__(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def _path(self, name: str) -> Path:
        return self._folder / checked_name(name)


def is_name(name: str) -> bool:
    """Return whether this is a blob's name."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """Return ``name``.

    Raises:
        LocalProtocolError: it is no name of a blob (a bug of ours).
    """
    if not is_name(name):
        raise LocalProtocolError(f"{name[:80]!r} is no name of a blob")
    return name
