"""``[uploads]``: what the service keeps of messages that come in chunks (``protocol.uploads``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import Range

__all__ = ["UploadSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSettings:
    """Bounds of what is kept before it is known to be worth anything; chunks lie in the database."""

    max_mb: Annotated[int, Range(1, 10**6)] = 1024  # of all open uploads, as announced; a device has one at a time
    expires_s: Annotated[float, Range(1.0, 1e7)] = 172_800.0  # after its last chunk: a device may be away for a weekend
