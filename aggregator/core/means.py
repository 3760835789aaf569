"""The mean of deltas, streamed: float64, in the order given, one pass.

Bound: that of ``partial_sums``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aggregator.core.partial_sums import PartlySummed, chunk_sums, total_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas

__all__ = ["mean_delta", "uniform_mean"]


def mean_delta(deltas: Deltas, n_values: int) -> NDArray[np.float64] | None:
    """Return sum(n_i delta_i) / sum(n_i), float64 [n_values]; None if nothing came.

    Raises:
        ValueError: ``n_examples`` is not positive (the caller's fault).
    """
    sums = deltas.chunk_sums(n_values) if isinstance(deltas, PartlySummed) else chunk_sums(deltas, n_values)
    summed = total_of(sums, n_values)
    if summed.n_examples == 0:
        return None
    mean = summed.total  # [n_values]
    mean /= summed.n_examples
    return mean


def uniform_mean(deltas: Deltas, n_values: int) -> tuple[NDArray[np.float64], int]:
    """Return sum(delta_i) / k, float64 [n_values], and k; zeros and 0 if nothing came."""
    total = np.zeros(n_values, np.float64)  # [n_values]
    count = 0
    for delta, _ in deltas:
        total += delta
        count += 1
    return total / max(count, 1), count
