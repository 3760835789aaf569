"""``service.blobs`` and ``[service.object_storage]``: where sealed updates and adapters are kept.

Laws: no secret is in the settings, since S3's own environment variables and files have them; without TLS the object
storage is on this machine alone, as the broker is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from protocol.errors import ConfigError
from protocol.fields import Length, Range

__all__ = ["ObjectPlace", "ObjectStorageSettings", "check_endpoint", "is_url", "object_place_of"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStorageSettings:
    """How the object storage is reached.

    Attributes:
        endpoint_url: of an S3-compatible server; None: Amazon's, or what ``AWS_ENDPOINT_URL`` says.
        region: of the bucket; None: what the environment says.
        deadline_s: of one request. 60 s carry 20 MB over a line of 3 Mbit/s.
    """

    endpoint_url: Annotated[str, Length(1, 1024)] | None = None
    region: Annotated[str, Length(1, 64)] | None = None
    deadline_s: Annotated[float, Range(0.5, 3600)] = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPlace:
    """A prefix in a bucket."""

    bucket: str
    prefix: str  # without slashes at its ends; may be ""
    settings: ObjectStorageSettings

    @property
    def path(self) -> str:
        """As fsspec names it."""
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket

    def __str__(self) -> str:
        """Return the URL, which has no secret."""
        return f"s3://{self.path}"


def is_url(blobs: str) -> bool:
    """Return whether ``service.blobs`` is a URL, and no folder."""
    return "://" in blobs


def object_place_of(url: str, settings: ObjectStorageSettings) -> ObjectPlace:
    """Return the place that a URL such as ``s3://bucket/prefix`` names.

    Raises:
        ConfigError: it is none, or the endpoint is one without TLS on another machine (the user's fault).
    """
    parts = urlsplit(url)
    if parts.scheme != "s3":
        raise ConfigError(f"service.blobs: {parts.scheme}:// is not known; expected s3://BUCKET/PREFIX, or a folder")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            "service.blobs: no keys in the URL, which shows in lists and logs: S3's environment variables or files "
            "have them (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws/credentials)"
        )
    if not parts.netloc or any(one in {".", ".."} for one in parts.path.split("/")):
        raise ConfigError("service.blobs: expected s3://BUCKET/PREFIX")
    if settings.endpoint_url is not None:
        check_endpoint(settings.endpoint_url)
    return ObjectPlace(bucket=parts.netloc, prefix=parts.path.strip("/"), settings=settings)


def check_endpoint(url: str) -> None:
    """Refuse an endpoint without TLS beyond this machine, and one with a password in it.

    Raises:
        ConfigError: so it is (the user's fault).
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError("object_storage.endpoint_url: names and passwords do not belong into a URL")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"object_storage.endpoint_url {url!r}: expected https://HOST, or http:// on this machine")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigError(f"object_storage.endpoint_url {url!r}: plain HTTP is for loopback only; use https://")
