"""With which numbers a restored task goes on, so that no device is ever shown an older round or version (ADR 0019).

Laws: pure; the new numbers are above every number that the service can have said after the backup was made: it cannot
have opened more than ``ROUNDS_PER_S`` rounds or versions in a second. Devices refuse what is older than what they heard
(``edge_agent.core.heard``), and whatever they still send for a lost round is older than the new one: late.
"""

from __future__ import annotations

import math
from typing import Final

from protocol.bounds import MAX_ROUND
from protocol.errors import ConfigError

__all__ = ["LEAST_JUMP", "ROUNDS_PER_S", "raised"]

# A round is a handful of transactions and messages; the quickest that we measured took 0.1 s.
ROUNDS_PER_S: Final = 10
# Beside that, a day and more at that pace: for clocks that were set back. 2,047 such jumps fit below MAX_ROUND.
LEAST_JUMP: Final = 1 << 20
_ROOM: Final = 10**7  # for the rounds that are still to come


def raised(latest: int, *, elapsed_s: float) -> int:
    """Return the number that follows ``latest`` after a restore of a backup that is ``elapsed_s`` old.

    Raises:
        ConfigError: there are no numbers left; the task needs a new id (nobody's fault).
    """
    # The sum of both, so that the same backup restored twice gives the second service the higher numbers.
    new = latest + LEAST_JUMP + math.ceil(max(0.0, elapsed_s) * ROUNDS_PER_S)
    if new > MAX_ROUND - _ROOM:
        raise ConfigError(f"a round of number {new} is beyond {MAX_ROUND}: give the task a new id")
    return new
