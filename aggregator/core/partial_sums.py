"""The one tree in which a weighted sum of many deltas is added, so that any number of workers gives the same bytes.

Laws: updates are cut in their canonical order into chunks of ``CHUNK``; a chunk is added one by one in that order,
starting from zeros, and then the chunks are, all in float64. Which machine adds which chunk changes no bit, and up to
``CHUNK`` updates it is the plain sum from first to last. Histories that were folded before there were chunks are sums
in one chunk (docs/adr/0025).
Bound: three float64 vectors and ``AT_ONCE`` deltas, encoded where they come so, whatever the number of updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import numpy as np

from aggregator.core.blocked import add_weighted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from aggregator.core.folding import Pieces

__all__ = ["AT_ONCE", "CHUNK", "ChunkSum", "PartlySummed", "chunk_sums", "total_of"]

# A worker's job: 64 updates of 75,268 values are 30 ms of work and a sum of 0.6 MB, an eighth of what was read.
CHUNK: Final = 64
AT_ONCE: Final = 4  # deltas that are added in one trip through the sum, which is twice as long as each of them


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSum:
    """The weighted sum of one chunk."""

    total: NDArray[np.float64]  # [n_values], sum(n_i delta_i)
    n_examples: int


@runtime_checkable
class PartlySummed(Protocol):
    """Deltas that know the sums of their chunks, such as stored ones that workers can read."""

    def chunk_sums(self, n_values: int) -> Iterator[ChunkSum]:
        """Return the chunks' sums in their order, float64 [n_values] each."""


def chunk_sums(deltas: Iterable[tuple[Pieces, int]], n_values: int, *, chunk: int = CHUNK) -> Iterator[ChunkSum]:
    """Yield the sums of the chunks in which ``deltas`` are added, piece by piece.

    Raises:
        ValueError: ``n_examples`` is not positive (the caller's fault).
    """
    left = iter(deltas)
    n_in = chunk
    while n_in == chunk:
        n_in = n_examples = 0
        total: NDArray[np.float64] | None = None
        while n_in < chunk and (some := list(islice(left, min(AT_ONCE, chunk - n_in)))):
            least = min(n for _, n in some)
            if least <= 0:
                raise ValueError(f"n_examples is {least}, expected a positive number")
            total = np.zeros(n_values, np.float64) if total is None else total
            add_weighted(total, some)
            n_examples += sum(n for _, n in some)
            n_in += len(some)
            some.clear()  # before the next are opened
        if total is not None:
            yield ChunkSum(total=total, n_examples=n_examples)


def total_of(sums: Iterable[ChunkSum], n_values: int) -> ChunkSum:
    """Return the sum of the chunks, added in their order."""
    total: NDArray[np.float64] | None = None
    n_examples = 0
    for one in sums:
        n_examples += one.n_examples
        if total is None:
            total = one.total  # zeros and this are this: a sum that began at 0.0 has no -0.0
        else:
            total += one.total
    return ChunkSum(total=np.zeros(n_values, np.float64) if total is None else total, n_examples=n_examples)
