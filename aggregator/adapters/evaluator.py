"""Measures versions in a trainer process: low priority, one at a time, so that the service never loads an ML runtime.

The child dies with the thread that called ``start`` (prctl, see ``host.parent``), which is the service's main thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from host.durable import make_folder, sweep, write_bytes
from host.trainer_process import Launch, TrainerProcess
from protocol import codec
from protocol.errors import EngineError, LocalProtocolError
from protocol.jobs import EvaluateJob, EvaluateResult
from protocol.plan import Codec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aggregator.ports import EvaluationRequest
    from host.trainer_process import Result
    from protocol.errors import EdgefoldError

__all__ = ["ProcessEvaluator"]

_NICE: Final = 10  # a round in progress on the same machine comes first


class ProcessEvaluator:
    """Implements ``aggregator.ports.Evaluator``."""

    def __init__(self, folder: Path, *, threads: int, deadline_s: float) -> None:
        """Use ``folder`` for the adapter under evaluation."""
        self._folder = make_folder(folder)
        sweep(self._folder)
        self._threads, self._deadline_s = threads, deadline_s
        self._process: TrainerProcess | None = None
        self._timer: threading.Timer | None = None

    def start(self, request: EvaluationRequest, on_end: Callable[[EvaluateResult | EdgefoldError], None]) -> None:
        """Begin; ``on_end`` is called once from another thread."""
        path = self._folder / "adapter.payload"
        write_bytes(path, codec.encode(request.adapter, Codec(name="float32")))
        job = EvaluateJob(
            bundle=str(request.bundle),
            adapter=str(path),
            sets={name: str(data) for name, data in request.sets.items()},
            batch_size=request.batch_size,
            max_tokens=request.max_tokens,
            has_base_change=request.has_base_change,
            threads=self._threads,
        )
        overran = threading.Event()

        def end(outcome: Result | EdgefoldError) -> None:
            timer.cancel()
            on_end(self._judge(outcome, overran=overran.is_set()))

        def stop() -> None:
            overran.set()
            process.kill()

        # The timer exists before the process, since a fast process may end before we are back here.
        self._timer = timer = threading.Timer(self._deadline_s, stop)
        timer.name, timer.daemon = "evaluation-deadline", True
        self._process = process = TrainerProcess(job, on_end=end, launch=Launch(nice=_NICE))
        timer.start()

    def close(self) -> None:
        """End what runs and wait for it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._process is not None:
            self._process.close()

    def _judge(self, outcome: Result | EdgefoldError, *, overran: bool) -> EvaluateResult | EdgefoldError:
        if overran:
            return EngineError(f"the evaluation overran evaluation.deadline_s = {self._deadline_s:g}")
        if isinstance(outcome, (EvaluateResult, Exception)):
            return outcome
        return LocalProtocolError("a trainer answered another job than it was given")
