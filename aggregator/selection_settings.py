"""``[task.selection]``: who takes part in a round, and for whom it waits. The rules are in ``core``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.bounds import MAX_SPREAD_S
from protocol.fields import FieldError, Length, Range

__all__ = ["SelectionSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionSettings:
    """How a task chooses its devices.

    Attributes:
        over_select: a round hands work to ``cohort`` times this many devices and closes at ``cohort`` updates; 1.3 is
            what Bonawitz et al. 2019 (arXiv:1902.01046) run with, for 6 to 10 % of drop-outs.
        gather_s: choose uniformly among the devices that come within so many seconds after a round's first; 0: the
            first come are in.
        straggler_factor: once half of the cohort and ``min_cohort`` have answered, wait so many times their median,
            from the last join on, and no longer; 0: until the deadline.
        straggler_least_s: but never less than this: a device whose link broke comes back within 30 s.
        prefer_within_s: of those who come while it gathers, prefer devices whose last answer came within so long; None:
            all alike.
        exploration: a slower device is drawn with this weight, a quick or unknown one with 1.
        tags: a file of the operator's, ``[tags] DEVICE = "TAG"``; a round's places are shared out among the tags.
        spread_s: devices spread their first call over so many seconds after an announcement.
    """

    over_select: Annotated[float, Range(1.0, 10.0)] = 1.0
    gather_s: Annotated[float, Range(0.0, 3600.0)] = 0.0
    straggler_factor: Annotated[float, Range(0.0, 1000.0)] = 4.0
    straggler_least_s: Annotated[float, Range(0.0, 1e6)] = 45.0
    prefer_within_s: Annotated[float, Range(0.01, 1e7)] | None = None
    exploration: Annotated[float, Range(0.001, 1.0)] = 0.1
    tags: Annotated[str, Length(1, 4096)] | None = None
    spread_s: Annotated[float, Range(0.0, MAX_SPREAD_S)] = 0.0

    def __post_init__(self) -> None:
        """Refuse preferences where nobody is chosen."""
        if self.gather_s == 0 and (self.prefer_within_s is not None or self.tags is not None):
            raise FieldError("prefer_within_s, tags: they choose among those who come within gather_s, which is 0")
