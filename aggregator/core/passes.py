"""Several passes over stored deltas, for folds that need every device at once.

Laws: memory is bounded whatever the number of devices; each pass reads (and opens) the stored updates again, so time
grows by devices x adapter / ``COLUMN_BYTES``. A fold that uses these needs single deltas, not their sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas

__all__ = ["COLUMN_BYTES", "columns", "count"]

COLUMN_BYTES: Final = 64 << 20  # 100 devices x 150,000 values in one pass


def count(deltas: Deltas) -> int:
    """Return how many there are."""
    return sum(1 for _ in deltas)


def columns(deltas: Deltas, n_values: int, *, n_updates: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield slices of the adapter with all devices' values there, float32 [n_updates, slice]; one pass each."""
    width = max(1, COLUMN_BYTES // (4 * n_updates))
    for begin in range(0, n_values, width):
        here = slice(begin, min(begin + width, n_values))
        block = np.empty((n_updates, here.stop - begin), np.float32)
        for row, (delta, _) in zip(block, deltas, strict=True):
            row[:] = delta[here]
        yield here, block
