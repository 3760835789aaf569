"""``[store]`` of a device: what it keeps of what it sees, for how long, and where that comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import FieldError, Length, Range

__all__ = ["StoreSettings"]

_PathText = Annotated[str, Length(1, 4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """``[store]``: the encrypted store of examples; its presence takes the place of ``data.train``."""

    folder: _PathText = "examples"
    watch: Annotated[tuple[_PathText, ...], Length(0, 64)] = ()  # folders: each new .jsonl or .csv in them is read once
    append: Annotated[tuple[_PathText, ...], Length(0, 64)] = ()  # .jsonl or .csv files that grow: new lines are read
    max_age_days: Annotated[float, Range(0.01, 3650)] = 90.0
    max_examples: Annotated[int, Range(10, 10**6)] = 20_000
    max_mb: Annotated[int, Range(1, 10_000)] = 64  # of sealed examples
    replay_examples: Annotated[int, Range(1, 100_000)] = 500  # kept of all stretches before, a fair draw
    exam_every: Annotated[int, Range(2, 1000)] = 10  # each so-manieth labelled example is never trained on
    poll_s: Annotated[float, Range(0.1, 3600)] = 5.0  # for new files and lines

    def __post_init__(self) -> None:
        """Refuse a reservoir that retention would empty."""
        if self.replay_examples >= self.max_examples:
            raise FieldError("replay_examples must be fewer than max_examples")
