"""Errors of storage that may come back by itself: the service waits for it, every other command gives up.

Law: whoever raises one of these has changed nothing that the caller must undo; the same call may go well later.
"""

from __future__ import annotations

from typing import ClassVar

from protocol.errors import StorageError

__all__ = ["AwayError", "BlobsAwayError", "DatabaseAwayError"]


class AwayError(StorageError):
    """A part of the storage is not there just now.

    Attributes:
        part: which, as it is called in events.
    """

    part: ClassVar[str] = "storage"


class DatabaseAwayError(AwayError):
    """The database is not there just now, or locked."""

    part = "database"


class BlobsAwayError(AwayError):
    """The object storage does not answer just now."""

    part = "blobs"
