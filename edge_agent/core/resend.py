"""When to say a thing again: exponential, fully jittered, bounded. Time and randomness are arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

__all__ = ["Resend"]

FIRST_WAIT_S: Final = 4.0  # an aggregator answers in milliseconds; this long means that something was lost
MAX_WAIT_S: Final = 300.0  # an aggregator that was away for a night hears from every device within five minutes


@dataclass(frozen=True, slots=True)
class Resend:
    """The next time to send; ``n_sent`` so far."""

    due_s: float
    n_sent: int

    @classmethod
    def later(cls, now_s: float, wait_s: float) -> Resend:
        """Ask again after ``wait_s``, and then ever more rarely: the message was taken, what follows may be lost."""
        return cls(now_s + wait_s, 4)

    @classmethod
    def begin(cls, now_s: float, *, wait_s: float = 0.0) -> Resend:
        """Send for the first time after ``wait_s``."""
        return cls(now_s + wait_s, 0)

    def sent(self, now_s: float, rng: random.Random) -> Resend:
        """Return when to send next if no answer comes: half of the wait is certain, half is random."""
        wait_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0**self.n_sent)
        return Resend(now_s + wait_s / 2 + rng.uniform(0, wait_s / 2), self.n_sent + 1)
