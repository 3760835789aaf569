"""``[service.retention]`` and ``[task.retention]``: how much of a task's past is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import Range

__all__ = ["RetentionSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """Bounds of what a task's past may take; a task's own table takes the place of the service's.

    Attributes:
        versions: the newest versions that are kept, besides the bundle's own, the promoted one in use and the one that
            an open round is on. An adapter of 150,000 parameters is 600 kB, so 100 are 60 MB.
        rounds: the newest rounds whose participants and updates have rows; older ones are added up. A row is some
            200 bytes: 1,000 rounds of 100 devices are 40 MB.
        folded_rounds: with ``service.keep_folded_updates``, the newest folded rounds whose sealed updates are kept;
            None: all.
        folded_bytes: and at most so many bytes of them; None: without bound. The newest round's always stay.
    """

    versions: Annotated[int, Range(10, 10**6)] = 100
    rounds: Annotated[int, Range(10, 10**6)] = 1000
    folded_rounds: Annotated[int, Range(1, 10**6)] | None = None
    folded_bytes: Annotated[int, Range(1, 10**15)] | None = None
