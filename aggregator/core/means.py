"""The mean of deltas, streamed: float64, in the order given, one pass.

Bound: two float64 vectors and ``AT_ONCE`` deltas, encoded where they come so, whatever the number of devices.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.blocked import add_weighted
from aggregator.core.folding import EncodedDeltas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas

__all__ = ["AT_ONCE", "mean_delta", "uniform_mean"]

AT_ONCE: Final = 4  # deltas that are added in one trip through the sum, which is twice as long as each of them


def mean_delta(deltas: Deltas, n_values: int) -> NDArray[np.float64] | None:
    """Return sum(n_i delta_i) / sum(n_i), float64 [n_values]; None if nothing came.

    Raises:
        ValueError: ``n_examples`` is not positive (the caller's fault).
    """
    total = np.zeros(n_values, np.float64)  # [n_values]
    n_total = 0
    left = deltas.encoded() if isinstance(deltas, EncodedDeltas) else iter(deltas)
    while some := list(islice(left, AT_ONCE)):
        least = min(n_examples for _, n_examples in some)
        if least <= 0:
            raise ValueError(f"n_examples is {least}, expected a positive number")
        add_weighted(total, some)
        n_total += sum(n_examples for _, n_examples in some)
        some.clear()  # before the next are opened
    if n_total == 0:
        return None
    total /= n_total
    return total


def uniform_mean(deltas: Deltas, n_values: int) -> tuple[NDArray[np.float64], int]:
    """Return sum(delta_i) / k, float64 [n_values], and k; zeros and 0 if nothing came."""
    total = np.zeros(n_values, np.float64)  # [n_values]
    count = 0
    for delta, _ in deltas:
        total += delta
        count += 1
    return total / max(count, 1), count
