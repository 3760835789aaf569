"""How long answers took lately: percentiles by the nearest-rank rule over the last ``KEPT`` of them.

The p-th percentile is the smallest kept value that at least p % of them do not exceed.
Memory: ``KEPT`` numbers.
"""

from __future__ import annotations

import collections
import math
import threading
from dataclasses import dataclass
from typing import Final

__all__ = ["KEPT", "Latency", "Percentiles"]

KEPT: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of the last ``n`` answers, in ms."""

    n: int
    p50_ms: float
    p95_ms: float


class Latency:
    """The last answers' times; may be used from any thread."""

    def __init__(self) -> None:
        """Begin without any."""
        self._times_ms: collections.deque[float] = collections.deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Count one answer."""
        with self._lock:
            self._times_ms.append(1000 * seconds)

    def percentiles(self) -> Percentiles | None:
        """Return the figures, None before the first answer."""
        with self._lock:
            ascending = sorted(self._times_ms)
        if not ascending:
            return None
        return Percentiles(n=len(ascending), p50_ms=_rank(ascending, 0.50), p95_ms=_rank(ascending, 0.95))


def _rank(ascending: list[float], share: float) -> float:
    return round(ascending[math.ceil(share * len(ascending)) - 1], 3)
