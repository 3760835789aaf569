"""The mean of deltas, streamed: float64, in the order given, one pass.

Bound: two float64 vectors and one delta, whatever the number of devices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aggregator.core.blocked import add_weighted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas

__all__ = ["mean_delta", "uniform_mean"]


def mean_delta(deltas: Deltas, n_values: int) -> NDArray[np.float64] | None:
    """Return sum(n_i delta_i) / sum(n_i), float64 [n_values]; None if nothing came.

    Raises:
        ValueError: ``n_examples`` is not positive (the caller's fault).
    """
    total = np.zeros(n_values, np.float64)  # [n_values]
    n_total = 0
    for delta, n_examples in deltas:
        if n_examples <= 0:
            raise ValueError(f"n_examples is {n_examples}, expected a positive number")
        add_weighted(total, delta, n_examples)
        n_total += n_examples
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
