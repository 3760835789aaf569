"""``[bundles]``: where the agent fetches bundles from, and how much of the disk they may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import FieldError, Length, Range

__all__ = ["BundleSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSettings:
    """How bundles come to this device.

    Attributes:
        url: ``https://HOST[:PORT][/PATH]``; an enrolled device was told.
        folder: where fetched bundles are kept.
        max_mb: all of them together.
        free_mb: of the disk, which must stay free.
    """

    url: Annotated[str, Length(1, 512)] | None = None
    folder: Annotated[str, Length(1, 4096)] = "bundles"
    max_mb: Annotated[int, Range(1, 10**7)] = 4096
    free_mb: Annotated[int, Range(0, 10**7)] = 256

    def __post_init__(self) -> None:
        """Refuse an address without TLS."""
        if self.url is not None and not self.url.startswith("https://"):
            raise FieldError("url: expected https://HOST[:PORT][/PATH]")
