"""The one tree in which a weighted sum of many deltas is added, so that any number of workers gives the same bytes.

Laws: updates are cut in their canonical order into chunks of ``CHUNK``; a chunk is added one by one in that order,
starting from zeros, and then the chunks are, all in float64; what an update weighs follows from itself and from
``Weights``. Which machine adds which chunk changes no bit, and up to
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

__all__ = ["AT_ONCE", "BY_EXAMPLES", "CHUNK", "ChunkSum", "PartlySummed", "Weights", "chunk_sums", "total_of"]

# A worker's job: 64 updates of 75,268 values are 30 ms of work and a sum of 0.6 MB, an eighth of what was read.
CHUNK: Final = 64
AT_ONCE: Final = 4  # deltas that are added in one trip through the sum, which is twice as long as each of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What each update weighs in a sum, and how much it counts in what the sum is divided by.

    Attributes:
        by_examples: by its examples; else each counts 1.
        factors: what that is multiplied by, which the divisor is not; one for each update in order, 0 leaves it out.
        max_norm: the L2 norm to which an update is cut, which the divisor is not told of either.
    """

    by_examples: bool = True
    factors: tuple[float, ...] | None = None
    max_norm: float | None = None

    def part(self, first: int, n: int) -> Weights:
        """Return the weights of ``n`` updates from ``first`` on."""
        factors = None if self.factors is None else self.factors[first : first + n]
        return Weights(by_examples=self.by_examples, factors=factors, max_norm=self.max_norm)

    def of(self, index: int, delta: Pieces, n_examples: int) -> tuple[int, float]:
        """Return how much one update counts, and its weight.

        Raises:
            ValueError: ``n_examples`` is not positive, or there is no factor for it (the caller's fault).
        """
        if n_examples <= 0:
            raise ValueError(f"n_examples is {n_examples}, expected a positive number")
        count = n_examples if self.by_examples else 1
        if self.factors is not None:
            if index >= len(self.factors):
                raise ValueError(f"{len(self.factors)} factors for more updates")
            return (count, count * self.factors[index]) if self.factors[index] > 0 else (0, 0.0)
        if self.max_norm is not None:
            norm = float(np.square(delta[:], dtype=np.float64).sum()) ** 0.5
            return count, count / max(1.0, norm / self.max_norm)
        return count, count


BY_EXAMPLES: Final = Weights()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSum:
    """The weighted sum of one chunk, and what it is divided by."""

    total: NDArray[np.float64]  # [n_values], sum(w_i delta_i)
    count: int


@runtime_checkable
class PartlySummed(Protocol):
    """Deltas that know the sums of their chunks, such as stored ones that workers can read."""

    def chunk_sums(self, n_values: int, weights: Weights = ...) -> Iterator[ChunkSum]:
        """Return the chunks' sums in their order, float64 [n_values] each."""


def chunk_sums(
    deltas: Iterable[tuple[Pieces, int]], n_values: int, weights: Weights = BY_EXAMPLES, *, chunk: int = CHUNK
) -> Iterator[ChunkSum]:
    """Yield the sums of the chunks in which ``deltas`` are added, piece by piece.

    Raises:
        ValueError: ``n_examples`` is not positive, or there is not one factor for each update (the caller's fault).
    """
    left = enumerate(deltas)
    n_in, n_all = chunk, 0
    while n_in == chunk:
        n_in = count = 0
        total: NDArray[np.float64] | None = None
        while n_in < chunk and (some := list(islice(left, min(AT_ONCE, chunk - n_in)))):
            weighed = [(delta, *weights.of(index, delta, n)) for index, (delta, n) in some]
            total = np.zeros(n_values, np.float64) if total is None else total
            add_weighted(total, [(delta, weight) for delta, counted, weight in weighed if counted])
            count += sum(counted for _, counted, _ in weighed)
            n_in += len(some)
            some.clear()  # before the next are opened
            weighed.clear()
        n_all += n_in
        if total is not None:
            yield ChunkSum(total=total, count=count)
    if weights.factors is not None and len(weights.factors) != n_all:
        raise ValueError(f"{len(weights.factors)} factors for {n_all} updates")


def total_of(sums: Iterable[ChunkSum], n_values: int) -> ChunkSum:
    """Return the sum of the chunks, added in their order."""
    total: NDArray[np.float64] | None = None
    count = 0
    for one in sums:
        count += one.count
        if total is None:
            total = one.total  # zeros and this are this: a sum that began at 0.0 has no -0.0
        else:
            total += one.total
    return ChunkSum(total=np.zeros(n_values, np.float64) if total is None else total, count=count)
