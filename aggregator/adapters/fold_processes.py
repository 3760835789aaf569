"""The fold engine ``workers``: processes on this machine, which Python's lock does not hold back.

Laws: a worker that dies (kill -9, no memory) is replaced and its chunk done again, which gives the same bytes; a chunk
that kills ``TRIES`` workers is given back; at most ``2 * workers`` chunks are under way, which bounds memory by so many
sums.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from aggregator.chunk_job import unpack_sum
from aggregator.fold_engine import FoldEngineError
from aggregator.fold_pool import in_order
from aggregator.fold_wire import JOB, MAX_SAID_BYTES, raise_unless_sum, read_frame, write_frame
from aggregator.fold_worker import place_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from aggregator.blob_settings import ObjectPlace
    from aggregator.chunk_job import ChunkJob
    from aggregator.core.partial_sums import ChunkSum

__all__ = ["TRIES", "ProcessFoldEngine"]

TRIES: Final = 3
_STOP_S: Final = 5.0


class ProcessFoldEngine:
    """Implements ``aggregator.fold_engine.FoldEngine``; workers start with the first fold and stay."""

    def __init__(self, place: Path | ObjectPlace, *, workers: int) -> None:
        """Let ``workers`` processes read blobs at ``place``."""
        self._command = [sys.executable, "-m", "aggregator.fold_worker", place_text(place)]
        self._n_workers = workers
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers: list[_Worker] = []

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [one.pid for one in self._workers]

    def takes(self, *, n_updates: int, n_values: int) -> bool:  # noqa: ARG002 - the port's
        """Return True: the operator asked for it."""
        return True

    def start(self) -> None:
        """Start the workers, unless they run.

        Raises:
            FoldEngineError: the machine has no room for them.
        """
        while len(self._workers) < self._n_workers:
            try:
                self._workers.append(_Worker(self._command))
            except OSError as error:
                raise FoldEngineError(f"a fold worker cannot be started: {error}") from error
            self._free.put(self._workers[-1])

    def sums(self, jobs: Sequence[ChunkJob]) -> Iterator[ChunkSum]:
        """Yield the jobs' sums in their order; errors as in the port."""
        self.start()
        return in_order(self._do, jobs, workers=self._n_workers)

    def close(self) -> None:
        """End the workers."""
        while self._workers:
            self._workers.pop().end()
        self._free = queue.SimpleQueue()

    def _do(self, job: ChunkJob) -> ChunkSum:
        worker = self._free.get()
        try:
            for _ in range(TRIES):
                try:
                    kind, data = worker.ask(job.pack(), max_bytes=16 + 8 * job.n_values)
                except (OSError, EOFError):
                    _restart(worker)
                    continue
                raise_unless_sum(kind, data)
                return unpack_sum(data, n_values=job.n_values)
        finally:
            self._free.put(worker)
        raise FoldEngineError(f"{TRIES} fold workers died over one chunk of {len(job.updates)} updates")


def _restart(worker: _Worker) -> None:
    try:
        worker.restart()
    except OSError as error:
        raise FoldEngineError(f"a fold worker cannot be started again: {error}") from error


class _Worker:
    """One process and its pipes."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process = self._started()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, job: bytes, *, max_bytes: int) -> tuple[bytes, bytes]:
        """Return the answer's kind and bytes; ``OSError`` or ``EOFError`` if the process is gone."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise EOFError("no pipe")
        write_frame(stdin, JOB, job)
        return read_frame(stdout, max_bytes=max(max_bytes, MAX_SAID_BYTES))

    def restart(self) -> None:
        self.end()
        self._process = self._started()

    def end(self) -> None:
        self._process.kill()
        self._process.wait(_STOP_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was on its way to the dead

    def _started(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
