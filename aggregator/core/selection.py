"""Chooses a round's devices among those who offer themselves while it gathers: uniformly, by weight, some of each tag.

A bottom-k sample: a keyed hash gives each device a number, and of each tag the ``n_places`` smallest stay. With equal
weights every subset of a tag is as likely as any other to whoever does not know the key; with others a device of twice
the weight is drawn twice as soon. Laws: the choice depends neither on order nor on how often a device asks, so asking
again gains nothing, and a device that was let go never comes back; places are shared out evenly among the tags that are
there, and what one tag does not fill goes to the others; memory is O(places x tags), however many offer.

Source: Cohen and Kaplan 2007, Summarizing Data Using Bottom-k Sketches, PODC; for weights Efraimidis and Spirakis 2006,
Weighted random sampling with a reservoir, IPL 97(5): the smallest of ``-ln(u) / w``. Departure: none.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Gathering", "StratifiedGathering", "allot", "n_places"]

T = TypeVar("T")

_KEY_BYTES: Final = 32
_N_NUMBERS: Final = 2**128


def n_places(cohort: int, over_select: float) -> int:
    """Return to how many devices a round hands work so that ``cohort`` updates are likely to come back."""
    return math.ceil(round(cohort * over_select, 9))  # 10 * 1.1 is 11, not 12


def allot(places: int, present: Mapping[str, int]) -> dict[str, int]:
    """Share ``places`` out among the tags that are ``present``, with so many devices each, as evenly as they can fill.

    What cannot be shared evenly goes to the first tags by name; nobody gets more than it has.
    """
    shares, left = dict.fromkeys(sorted(present), 0), places
    while left > 0 and (open_ := [tag for tag in shares if shares[tag] < present[tag]]):
        each = max(1, left // len(open_))
        for tag in open_:
            more = min(each, present[tag] - shares[tag], left)
            shares[tag] += more
            left -= more
    return shares


class Gathering(Generic[T]):
    """The devices of one tag that are chosen so far, each with what it said."""

    __slots__ = ("_heap", "_key", "_n_places", "_said")

    def __init__(self, places: int, *, key: bytes) -> None:
        """Begin empty; ``key`` is new for each round and known to nobody else.

        Raises:
            ValueError: no place, or a key of another length (the caller's fault).
        """
        if places < 1 or len(key) != _KEY_BYTES:
            raise ValueError(f"expected at least one place and a key of {_KEY_BYTES} bytes, got {places}, {len(key)}")
        self._n_places, self._key = places, key
        self._heap: list[tuple[float, str]] = []  # of minus the number: the largest number is on top
        self._said: dict[str, T] = {}

    def offer(self, device: str, said: T, *, weight: float = 1.0) -> tuple[str, T] | None:
        """Take a device in; return the one that is let go for good: this one, another, or None.

        Raises:
            ValueError: the weight is not positive (the caller's fault).
        """
        if device in self._said:
            self._said[device] = said
            return None
        entry = (-self._number(device, weight), device)
        if len(self._heap) < self._n_places:
            heapq.heappush(self._heap, entry)
            self._said[device] = said
            return None
        _, out = heapq.heappushpop(self._heap, entry)
        if out == device:
            return device, said
        self._said[device] = said
        return out, self._said.pop(out)

    def chosen(self, places: int | None = None) -> list[tuple[str, T]]:
        """Return who was chosen, by name; with ``places`` the first so many of them to be drawn."""
        drawn = sorted(self._heap, reverse=True)[:places]
        return sorted(((device, self._said[device]) for _, device in drawn), key=lambda one: one[0])

    def __len__(self) -> int:
        """Return how many are chosen so far."""
        return len(self._said)

    def _number(self, device: str, weight: float) -> float:
        if weight <= 0:
            raise ValueError(f"the weight of {device} is {weight}, expected a positive number")
        drawn = int.from_bytes(hashlib.blake2b(device.encode(), key=self._key, digest_size=16).digest(), "big")
        return -math.log((drawn + 1) / _N_NUMBERS) / weight  # of u in (0, 1]


class StratifiedGathering(Generic[T]):
    """The devices chosen so far, some of each tag."""

    __slots__ = ("_key", "_n_places", "_of_tag")

    def __init__(self, places: int, *, key: bytes) -> None:
        """Begin empty; as ``Gathering``."""
        self._n_places, self._key = places, key
        self._of_tag: dict[str, Gathering[T]] = {}

    def offer(self, device: str, said: T, *, tag: str = "", weight: float = 1.0) -> tuple[str, T] | None:
        """Take a device in; return the one that is let go for good, of the same tag, or None."""
        if tag not in self._of_tag:
            self._of_tag[tag] = Gathering(self._n_places, key=self._key)
        return self._of_tag[tag].offer(device, said, weight=weight)

    def chosen(self) -> list[tuple[str, T]]:
        """Return who was chosen, by name; who is not among them may be told so when it asks again."""
        shares = allot(self._n_places, {tag: len(one) for tag, one in self._of_tag.items()})
        found = [one for tag, share in shares.items() if share for one in self._of_tag[tag].chosen(share)]
        return sorted(found, key=lambda one: one[0])
