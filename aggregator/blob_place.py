"""The port to a whole place of blobs, and the one function that opens it: a folder, or a bucket of object storage.

Laws: those of ``ports.BlobStore``; a place knows whose it is, so that no other database takes its blobs for orphans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from aggregator.adapters.blob_store import FolderBlobStore
from aggregator.blob_settings import ObjectPlace
from aggregator.ports import BlobStore

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from pathlib import Path

__all__ = ["BlobPlace", "open_blobs"]


class BlobPlace(BlobStore, Protocol):
    """All blobs of one service; every method raises ``StorageError``, and ``BlobsAwayError`` where waiting helps."""

    def sizes(self) -> dict[str, int]:
        """Return every blob's name and its size in bytes."""

    def keep_only(self, names: AbstractSet[str]) -> int:
        """Remove every other blob; return how many went."""

    def owner(self) -> str | None:
        """Return the id of the database whose blobs these are; None if nobody's."""

    def own(self, owner: str) -> None:
        """Keep whose blobs these are."""

    def disown(self) -> None:
        """Let the next database that is put beside these blobs take them: for a restore."""

    def close(self) -> None:
        """Close what is open."""


def open_blobs(place: Path | ObjectPlace) -> BlobPlace:
    """Return the blobs at ``place``; a folder is made if it is missing, a bucket is not.

    Raises:
        ConfigError: the object storage's library is not installed, or its endpoint is refused (the user's fault).
        StorageError: the folder cannot be made.
    """
    if isinstance(place, ObjectPlace):
        from aggregator.adapters.object_blobs import open_object_blobs  # noqa: PLC0415 - an extra

        return open_object_blobs(place)
    return FolderBlobStore(place)
