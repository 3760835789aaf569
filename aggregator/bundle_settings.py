"""``[bundles]``: where devices fetch the bundles of the tasks. Without the table they must be copied by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import FieldError, Length, Range

__all__ = ["BundleSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSettings:
    """Where the service answers devices' HTTPS, and how many at once.

    Attributes:
        url: of a static host that has the bundles as ``URL/<bundle id>/<file>`` and shows a certificate of the fleet's
            authority; then nothing listens here.
        host: the address to listen on.
        port: for devices with a certificate.
        max_connections: of all devices; more hear 503 and come again, spread over time.
        max_device_connections: of one device.
        max_connection_s: one lives no longer; whoever is slow goes on where it stood.
    """

    url: Annotated[str, Length(1, 512)] | None = None
    host: Annotated[str, Length(1, 255)] = "127.0.0.1"
    port: Annotated[int, Range(1, 65535)] = 8886
    max_connections: Annotated[int, Range(1, 10_000)] = 64
    max_device_connections: Annotated[int, Range(1, 64)] = 4
    max_connection_s: Annotated[float, Range(1, 86_400)] = 3600.0

    def __post_init__(self) -> None:
        """Refuse an address that devices would refuse."""
        if self.url is not None and not self.url.startswith("https://"):
            raise FieldError("url: expected https://HOST[:PORT][/PATH]")
