"""Which examples of an endless stream are kept, so that the kept ones are a fair draw of all that ever came.

Laws: after n arrivals each of them is kept with probability capacity / n, whatever came when; one draw an arrival; the
draw is an argument. Memory: the caller's ``capacity`` examples.

Source: Vitter 1985, "Random Sampling with a Reservoir", ACM TOMS 11(1), algorithm R.
"""

from __future__ import annotations

__all__ = ["place_for"]


def place_for(n_before: int, *, capacity: int, draw: float) -> int | None:
    """Return the place, 0 to ``capacity - 1``, that the next arrival takes, or None if it is not kept.

    Args:
        n_before: arrivals before this one.
        capacity: places; at least one.
        draw: uniform in [0, 1).
    """
    if n_before < capacity:
        return n_before
    place = int(draw * (n_before + 1))
    return place if place < capacity else None
