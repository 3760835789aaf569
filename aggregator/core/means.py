"""The mean of deltas, streamed: float64, in the order given, one pass.

Bound: that of ``partial_sums``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aggregator.core.partial_sums import BY_EXAMPLES, PartlySummed, chunk_sums, total_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas
    from aggregator.core.partial_sums import ChunkSum, Weights

__all__ = ["mean_delta", "uniform_mean", "weighted_sum"]


def weighted_sum(deltas: Deltas, n_values: int, weights: Weights = BY_EXAMPLES) -> ChunkSum:
    """Return sum(w_i delta_i), float64 [n_values], and what it is divided by for a mean: 0 if nothing counted.

    Raises:
        ValueError: see ``partial_sums.chunk_sums`` (the caller's fault).
    """
    if isinstance(deltas, PartlySummed):
        return total_of(deltas.chunk_sums(n_values, weights), n_values)
    return total_of(chunk_sums(deltas, n_values, weights), n_values)


def mean_delta(deltas: Deltas, n_values: int) -> NDArray[np.float64] | None:
    """Return sum(n_i delta_i) / sum(n_i), float64 [n_values]; None if nothing came; errors as ``weighted_sum``."""
    summed = weighted_sum(deltas, n_values)
    if summed.count == 0:
        return None
    mean = summed.total  # [n_values]
    mean /= summed.count
    return mean


def uniform_mean(deltas: Deltas, n_values: int) -> tuple[NDArray[np.float64], int]:
    """Return sum(delta_i) / k, float64 [n_values], and k; zeros and 0 if nothing came."""
    total = np.zeros(n_values, np.float64)  # [n_values]
    count = 0
    for delta, _ in deltas:
        total += delta
        count += 1
    return total / max(count, 1), count
