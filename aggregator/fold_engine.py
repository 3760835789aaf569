"""The port to whoever adds the chunks of a fold: processes on this machine, or a Ray cluster.

Laws: sums come in the order of the jobs, whoever was first; an engine that cannot go on says so by ``FoldEngineError``,
and the fold goes on by itself from that chunk, to the same bytes: no engine can lose a round or stop the service.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from protocol.errors import EdgefoldError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aggregator.chunk_job import ChunkJob
    from aggregator.core.partial_sums import ChunkSum

__all__ = ["FoldEngine", "FoldEngineError", "batched"]

T = TypeVar("T")


class FoldEngineError(EdgefoldError):
    """The engine cannot do its jobs just now; whoever asked does them."""


class FoldEngine(Protocol):
    """Adds chunks elsewhere."""

    def takes(self, *, n_updates: int, n_values: int) -> bool:
        """Return whether it is to be asked for a fold of so many updates of so many values."""

    def sums(self, jobs: Sequence[ChunkJob]) -> Iterator[ChunkSum]:
        """Yield the jobs' sums in their order.

        Raises:
            FoldEngineError: it cannot go on, whatever the reason; the sums so far hold.
        """

    def close(self) -> None:
        """End what runs."""


def batched(items: Iterable[T], n: int) -> Iterator[tuple[T, ...]]:
    """Yield tuples of ``n`` items, the last perhaps shorter (``itertools.batched`` of Python 3.12)."""
    rest = iter(items)
    while part := tuple(islice(rest, n)):
        yield part
