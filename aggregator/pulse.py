"""What other threads may know of the service's pump: that it turns, and whether the broker is reached.

Laws: the pump only assigns, others only read; no lock, so that nobody can hold the pump up.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["STALLED_AFTER_S", "Pulse"]

# The pump turns four times a second; a fold of a large adapter or a slow disk may take it some seconds.
STALLED_AFTER_S = 60.0


@dataclass(slots=True)
class Pulse:
    """Written by the pump's thread after each turn; times are the monotonic clock's."""

    beat_s: float | None = None  # None before the first turn
    is_link_up: bool = False

    def age_s(self, now_s: float) -> float | None:
        """Return how long ago the pump last turned."""
        return None if self.beat_s is None else max(0.0, now_s - self.beat_s)

    def is_turning(self, now_s: float) -> bool:
        """Return whether the pump turned lately."""
        age_s = self.age_s(now_s)
        return age_s is not None and age_s < STALLED_AFTER_S
