"""What a device has heard of each task: rounds and versions that only go up, also over a restart.

Laws: an announcement of an earlier round, or anything on an earlier version, than what was heard is old or rolled back,
whoever delivers it and however well it is signed. Pure: the caller keeps the value before it acts on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from protocol.bounds import MAX_ROUND
from protocol.fields import Range

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Heard", "hear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The latest of one task."""

    round: Annotated[int, Range(0, MAX_ROUND)] = 0
    version: Annotated[int, Range(0, MAX_ROUND)] = 0


def hear(heard: Mapping[str, Heard], *, task: str, round_: int, version: int) -> dict[str, Heard] | None:
    """Return what has then been heard, or None if this is older than that."""
    before = heard.get(task, Heard())
    if round_ < before.round or version < before.version:
        return None
    return {**heard, task: replace(before, round=round_, version=version)}
