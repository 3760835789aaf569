"""The fold engine ``auto``: processes beside the service, but only for folds that they make quicker.

Laws: they start with the first such fold, which the service still does itself, so that no fold waits for a process to
start; a service whose rounds are small never has any. Memory: 19 MB of its own for each worker, measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aggregator.core.partial_sums import CHUNK
from aggregator.fold_engine import FoldEngineError
from aggregator.fold_pool import WORTH_VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.adapters.fold_processes import ProcessFoldEngine
    from aggregator.chunk_job import ChunkJob
    from aggregator.core.partial_sums import ChunkSum

__all__ = ["LEAST_UPDATES", "MAX_AUTO_WORKERS", "AutoFoldEngine"]

# A worker adds whole chunks: with fewer than these the last one decides, and the fold is a matter of milliseconds.
LEAST_UPDATES: Final = 4 * CHUNK
MAX_AUTO_WORKERS: Final = 4  # more is for an operator to ask for: each is a process that stays


class AutoFoldEngine:
    """Implements ``aggregator.fold_engine.FoldEngine``."""

    def __init__(self, processes: ProcessFoldEngine) -> None:
        """Use ``processes`` where it pays."""
        self._processes = processes

    def takes(self, *, n_updates: int, n_values: int) -> bool:
        """Return whether processes that run already are quicker than threads: for many updates, each of them short."""
        if n_updates < LEAST_UPDATES or n_values >= WORTH_VALUES:
            return False
        was_running = bool(self._processes.pids)
        try:
            self._processes.start()
        except FoldEngineError:
            return False  # no memory for them, just now
        return was_running

    def sums(self, jobs: Sequence[ChunkJob]) -> Iterator[ChunkSum]:
        """Yield the jobs' sums in their order; errors as in the port."""
        return self._processes.sums(jobs)

    def close(self) -> None:
        """End the workers."""
        self._processes.close()
