"""Blobs as objects of an S3-compatible storage, through fsspec; named by the SHA-256 of their content.

Laws: an object is put whole by one request, which S3 keeps whole or not at all and answers when it is durable; the
request carries the SHA-256 that the storage checks, and what ``get`` returns is what its name says; no listing and no
connection is believed from before; every call ends within its deadline; what may come back by itself leaves as
``BlobsAwayError``. Keys come from S3's own environment variables and files, and are in no error and no log.
Memory: one object.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from typing import TYPE_CHECKING, Any, Final

from aggregator.adapters.blob_store import MAX_OWNER_BYTES, OWNER, checked_name, is_name
from aggregator.away import BlobsAwayError
from aggregator.blob_settings import check_endpoint
from protocol.errors import ConfigError, EdgefoldError, StorageError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from aggregator.blob_settings import ObjectPlace

__all__ = ["ObjectBlobStore", "open_object_blobs"]

_CONNECT_S: Final = 5.0  # a storage that is there answers a SYN in milliseconds
_TRIES: Final = 2  # the storage closed an idle connection; longer troubles are the service's to wait out
_ONE_PUT_BYTES: Final = 5 << 30  # S3's bound of one PUT: never in parts, which a crash would leave lying about
# What s3fs makes of S3's 500, 503, SlowDown and the like, and of a network that is not there.
_AWAY: Final = frozenset(
    {errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EAGAIN}
)
_MAX_SAID: Final = 200  # characters of a foreign error


class ObjectBlobStore:
    """Implements ``aggregator.blob_place.BlobPlace``; its methods may be called from several threads."""

    def __init__(self, place: ObjectPlace, filesystem: Any) -> None:  # noqa: ANN401 - fsspec has no types
        """Use an asynchronous fsspec file system that caches nothing."""
        self._place, self._fs = place, filesystem

    def put(self, data: bytes) -> str:
        """Keep ``data`` durably and return its name."""
        name = hashlib.sha256(data).hexdigest()
        self._put(name, data)
        return name

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return the bytes of ``name``, checked against it; no more than the bound are fetched."""
        data = self._get(checked_name(name), max_bytes=max_bytes)
        if data is None:
            raise StorageError(f"{self._place}/{name}: missing")
        if len(data) > max_bytes:
            raise StorageError(f"{self._place}/{name}: longer than {max_bytes} bytes")
        if hashlib.sha256(data).hexdigest() != name:
            raise StorageError(f"{self._place}/{name}: its content has changed")
        return data

    def remove(self, name: str) -> None:
        """Forget ``name``, if it is there."""
        self._remove(checked_name(name))

    def sizes(self) -> dict[str, int]:
        """Return every blob's name and its size in bytes."""
        listed = self._call("ls", self._place.path, detail=True, refresh=True) or []
        names = ((one["name"].rsplit("/", 1)[-1], one) for one in listed if one["type"] == "file")
        return {name: int(one["size"]) for name, one in names if is_name(name)}

    def keep_only(self, names: AbstractSet[str]) -> int:
        """Remove every other blob; return how many went. An interrupted put leaves nothing."""
        orphans = self.sizes().keys() - names
        for name in sorted(orphans):
            self._remove(name)
        return len(orphans)

    def owner(self) -> str | None:
        """Return the id of the database whose blobs these are; None if nobody's."""
        data = self._get(OWNER, max_bytes=MAX_OWNER_BYTES)
        return None if data is None else data.decode("ascii", "replace").strip()

    def own(self, owner: str) -> None:
        """Keep whose blobs these are.

        Raises:
            ConfigError: another service did the same just now.
        """
        self._put(OWNER, f"{owner}\n".encode())
        if self.owner() != owner:
            raise ConfigError(f"{self._place}: another service takes this place for its blobs")

    def disown(self) -> None:
        """Let the next database that is put beside these blobs take them."""
        self._remove(OWNER)

    def close(self) -> None:
        """Close the connections."""
        self._fs.close_session(self._fs.loop, self._fs.s3)

    def __str__(self) -> str:
        """Return the URL, which has no secret."""
        return str(self._place)

    def _put(self, name: str, data: bytes) -> None:
        path = f"{self._place.path}/{name}"
        if self._call("pipe_file", path, data, chunksize=_ONE_PUT_BYTES, is_needed=True) is None:
            raise ConfigError(f"{self._place}: there is no bucket of this name")

    def _get(self, name: str, *, max_bytes: int) -> bytes | None:
        found: bytes | None = self._call("cat_file", f"{self._place.path}/{name}", start=0, end=max_bytes + 1)
        return found

    def _remove(self, name: str) -> None:
        self._call("rm_file", f"{self._place.path}/{name}")

    def _call(self, method: str, *arguments: Any, is_needed: bool = False, **options: Any) -> Any:  # noqa: ANN401
        """Return what the file system's method returns, or None where it finds nothing."""
        from fsspec import asyn  # noqa: PLC0415 - an extra

        deadline_s = self._place.settings.deadline_s
        try:
            found = asyn.sync(self._fs.loop, getattr(self._fs, f"_{method}"), *arguments, timeout=deadline_s, **options)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise _translated(self._place, error) from error
        return True if is_needed else found


def open_object_blobs(place: ObjectPlace) -> ObjectBlobStore:
    """Return the blobs in a bucket; that it answers is not asked.

    Raises:
        ConfigError: the library is not installed, or the endpoint is refused (the user's fault).
    """
    try:
        import fsspec  # noqa: PLC0415 - an extra
        from fsspec import asyn  # noqa: PLC0415

        kind = fsspec.get_filesystem_class("s3")
    except ImportError as error:
        raise ConfigError("s3:// needs s3fs; run: pip install 'edgefold[s3]'") from error
    for name in ("botocore", "aiobotocore", "s3fs", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)  # at "debug" they would print signed headers
    settings = place.settings
    filesystem = kind(
        endpoint_url=settings.endpoint_url,
        client_kwargs={"region_name": settings.region},
        config_kwargs={
            "connect_timeout": _CONNECT_S,
            "read_timeout": settings.deadline_s,
            "retries": {"total_max_attempts": 1},
            "s3": {"payload_signing_enabled": True},  # the storage checks the SHA-256 of what it is sent
            "request_checksum_calculation": "when_required",  # other checksums besides: not every S3 knows them
            "response_checksum_validation": "when_required",
        },
        default_cache_type="none",
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    filesystem.retries = _TRIES
    try:
        client = asyn.sync(filesystem.loop, filesystem.set_session, timeout=settings.deadline_s)
    except Exception as error:
        raise ConfigError(f"{place}: {_said(error)}") from error
    store = ObjectBlobStore(place, filesystem)
    try:
        check_endpoint(str(client.meta.endpoint_url))  # the environment may have said it
    except ConfigError:
        store.close()
        raise
    return store


def _translated(place: ObjectPlace, error: Exception) -> EdgefoldError:
    """Return ``error`` as ours: away where the same may go well later."""
    from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError  # noqa: PLC0415

    said = f"{place}: {_said(error)}"
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ConfigError(f"{said}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if isinstance(error, PermissionError):
        return StorageError(said)
    if isinstance(error, (BotoCoreError, TimeoutError, ConnectionError)):
        return BlobsAwayError(said)
    if isinstance(error, OSError):
        return BlobsAwayError(said) if error.errno in _AWAY else StorageError(said)
    return BlobsAwayError(said) if type(error).__module__.split(".")[0] in {"aiohttp", "fsspec"} else StorageError(said)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_MAX_SAID]
