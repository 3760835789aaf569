"""Chooses a round's devices uniformly among those who offer themselves while it gathers.

A bottom-k sample: a keyed hash gives each device a number, and the ``n_places`` smallest stay. Laws: every subset is as
likely as any other to whoever does not know the key; the choice depends neither on order nor on how often a device
asks, so asking again gains nothing, and a device that was let go never comes back; memory is O(places), however many
offer.

Source: Cohen and Kaplan 2007, Summarizing Data Using Bottom-k Sketches, PODC. Departure: none.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from typing import Generic, TypeVar

__all__ = ["Gathering", "n_places"]

T = TypeVar("T")

_KEY_BYTES = 32


def n_places(cohort: int, over_select: float) -> int:
    """Return to how many devices a round hands work so that ``cohort`` updates are likely to come back."""
    return math.ceil(round(cohort * over_select, 9))  # 10 * 1.1 is 11, not 12


class Gathering(Generic[T]):
    """The devices chosen so far, each with what it said."""

    __slots__ = ("_heap", "_key", "_n_places", "_said")

    def __init__(self, places: int, *, key: bytes) -> None:
        """Begin empty; ``key`` is new for each round and known to nobody else.

        Raises:
            ValueError: no place, or a key of another length (the caller's fault).
        """
        if places < 1 or len(key) != _KEY_BYTES:
            raise ValueError(f"expected at least one place and a key of {_KEY_BYTES} bytes, got {places}, {len(key)}")
        self._n_places, self._key = places, key
        self._heap: list[tuple[int, str]] = []  # of minus the number: the largest number is on top
        self._said: dict[str, T] = {}

    def offer(self, device: str, said: T) -> tuple[str, T] | None:
        """Take a device in; return the one that is let go for good: this one, another, or None."""
        if device in self._said:
            self._said[device] = said
            return None
        entry = (-self._number(device), device)
        if len(self._heap) < self._n_places:
            heapq.heappush(self._heap, entry)
            self._said[device] = said
            return None
        _, out = heapq.heappushpop(self._heap, entry)
        if out == device:
            return device, said
        self._said[device] = said
        return out, self._said.pop(out)

    def chosen(self) -> list[tuple[str, T]]:
        """Return who was chosen, by name."""
        return sorted(self._said.items())

    def _number(self, device: str) -> int:
        return int.from_bytes(hashlib.blake2b(device.encode(), key=self._key, digest_size=16).digest(), "big")
