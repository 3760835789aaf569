"""The machine's clocks."""

from __future__ import annotations

import time

__all__ = ["SystemClock"]


class SystemClock:
    """Implements ``aggregator.ports.Clock``."""

    def unix_s(self) -> float:
        """Return the wall clock."""
        return time.time()

    def monotonic_s(self) -> float:
        """Return a clock that never jumps."""
        return time.monotonic()
