"""The service's way into a Ray cluster, a process: ``python -m aggregator.ray_driver PLACE ADDRESS SECRET``.

Jobs come on standard input, answers go to standard output in the order of the jobs. Laws: the service never loads Ray,
and neither Ray's memory nor its end is the service's; jobs are sealed before Ray sees them; at most ``AHEAD`` chunks
for each CPU of the cluster are under way; a node that is lost costs time, since Ray runs its chunks again elsewhere.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aggregator.chunk_job import MAX_JOB_BYTES
from aggregator.fold_secret import FoldSecret
from aggregator.fold_wire import END, FAILED, read_frame, write_frame
from aggregator.ray_task import sum_sealed
from protocol.errors import EdgefoldError

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["AHEAD", "TRIES"]

AHEAD: Final = 2
TRIES: Final = 5  # of one chunk, after the first
_DEADLINE_S: Final = 300.0  # of one chunk, with all its tries: 64 updates of 5 million values are seconds
_MAX_SAID: Final = 500


def main() -> None:
    """Answer batches of jobs until the service is gone."""
    place, address, secret = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Ray prints is no answer
    ray: Any = importlib.import_module("ray")  # an extra, and it prints when it is loaded
    try:
        key = FoldSecret.load(Path(secret))
        ray.init(address=address, namespace="edgefold", log_to_driver=False, logging_level="ERROR")
    except (EdgefoldError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        _fail(answers, error)
        return
    write_frame(answers, END)
    task = ray.remote(num_cpus=1, max_retries=TRIES, retry_exceptions=False)(sum_sealed)
    while jobs := _batch():
        under_way: deque[Any] = deque()
        waiting = deque(jobs)
        ahead = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        for job in jobs:
            while waiting and len(under_way) < ahead:
                under_way.append(task.remote(place, secret, key.seal_job(waiting.popleft())))
            try:
                answer = key.open_sum(ray.get(under_way.popleft(), timeout=_DEADLINE_S), job=job)
            except (ray.exceptions.RayError, EdgefoldError, TimeoutError) as error:
                _fail(answers, error)
                return
            write_frame(answers, answer[:1], answer[1:])


def _batch() -> list[bytes]:
    """Return the next batch of jobs; none when the service is gone."""
    jobs: list[bytes] = []
    while True:
        try:
            kind, job = read_frame(sys.stdin.buffer, max_bytes=MAX_JOB_BYTES)
        except EOFError:
            return []
        if kind == END:
            return jobs
        jobs.append(job)


def _fail(answers: BinaryIO, error: Exception) -> None:
    lines = str(error).strip().splitlines() or [""]
    write_frame(answers, FAILED, f"{type(error).__name__}: {lines[-1]}"[:_MAX_SAID].encode())


if __name__ == "__main__":
    main()
