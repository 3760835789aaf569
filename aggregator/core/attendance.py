"""Who was handed work in the open round and how long answers take: what tells a slow device from a lost one.

Laws: monotonic seconds come from the caller, so that a wall clock that jumps closes no round; after a restart or a lost
broker everybody has the whole patience again. A link tells nobody that a device died, so the rule is time alone: the
round waits as long as ``factor`` times the median of those who answered, from the last join on, and never less than
``least_s``. Memory: one number for each device of the round.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Attendance", "patience_s"]


class Attendance:
    """One round's joins and answers."""

    __slots__ = ("_joined_s", "_last_s", "_took_s")

    def __init__(self, *, now_s: float, waiting: Iterable[str] = (), took_s: Iterable[float] = ()) -> None:
        """Begin with the devices that are ``waiting`` to answer and how long the others took, as the store has it."""
        self._joined_s = dict.fromkeys(waiting, now_s)
        self._took_s = sorted(took_s)
        self._last_s = now_s

    def join(self, device: str, now_s: float) -> None:
        """Count a device that was handed work; again, if it asked again."""
        self._joined_s.setdefault(device, now_s)
        self._last_s = max(self._last_s, self._joined_s[device])

    def answer(self, device: str, now_s: float) -> None:
        """Count a device's accepted update."""
        joined_s = self._joined_s.pop(device, None)
        if joined_s is not None:
            insort(self._took_s, now_s - joined_s)

    def restart(self, now_s: float) -> None:
        """Give everybody the whole patience again."""
        self._joined_s = dict.fromkeys(self._joined_s, now_s)
        self._last_s = now_s

    @property
    def n_waiting(self) -> int:
        """How many have work and no update yet."""
        return len(self._joined_s)

    @property
    def median_s(self) -> float | None:
        """How long an answer took, half of them less; None before the first."""
        return self._took_s[(len(self._took_s) - 1) // 2] if self._took_s else None

    def quiet_s(self, now_s: float) -> float:
        """Return for how long nobody has joined."""
        return now_s - self._last_s


def patience_s(median_s: float | None, *, factor: float, least_s: float) -> float | None:
    """Return for how long after the last join a round waits for answers; None for until its deadline."""
    return None if median_s is None or factor == 0 else max(least_s, factor * median_s)
