"""Measures versions one after the other, beside the rounds; what is not measured at a restart is measured then.

Laws: never blocks a round; a version whose evaluation fails twice is left without metrics until the next start, and the
log says why. Works on the service's thread; results come from the evaluator's thread through a queue.
"""

from __future__ import annotations

import logging
import queue
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aggregator.core.records import Evaluation, SetScore
from aggregator.ports import EvaluationRequest
from host.logs import event
from protocol.errors import EdgefoldError, EngineError, StorageError

if TYPE_CHECKING:
    from aggregator.ports import Evaluator
    from aggregator.runner import Runner
    from aggregator.store_ports import Store
    from protocol.jobs import EvaluateResult

__all__ = ["Evaluations"]

_MAX_TRIES: Final = 2  # once more, for a trainer that was killed for memory while a round ran beside it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    runner: Runner
    version: int
    n_tries: int = 0


class Evaluations:
    """The queue of versions to be measured."""

    def __init__(self, evaluator: Evaluator, store: Store) -> None:
        """Begin empty."""
        self._evaluator, self._store = evaluator, store
        self._waiting: deque[_Pending] = deque()
        self._running: _Pending | None = None
        self._seen: dict[str, set[int]] = {}  # of each task, the queued versions that have no metrics yet
        self._outcomes: queue.SimpleQueue[EvaluateResult | EdgefoldError] = queue.SimpleQueue()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits."""
        return self._running is None and not self._waiting

    def add_missing(self, runner: Runner) -> None:
        """Queue the task's versions that have no metrics and were not queued before."""
        missing, seen = runner.versions.unevaluated(), self._seen.get(runner.task, set())
        self._waiting.extend(_Pending(runner=runner, version=version) for version in missing if version not in seen)
        self._seen[runner.task] = set(missing)  # what was measured need not be remembered

    def tick(self) -> None:
        """Keep a result that came in, and start the next evaluation if none runs."""
        if self._running is not None:
            try:
                outcome = self._outcomes.get_nowait()
            except queue.Empty:
                return
            pending, self._running = self._running, None
            try:
                self._keep(pending, outcome)
            except StorageError:
                self._running = pending  # if the service goes on, the result is kept later
                self._outcomes.put(outcome)
                raise
        if self._waiting:
            self._start(self._waiting.popleft())

    def close(self) -> None:
        """End what runs; it is measured after the next start."""
        self._evaluator.close()

    def _start(self, pending: _Pending) -> None:
        settings = pending.runner.setup.settings
        if settings.evaluation is None or not pending.runner.versions.has(pending.version):  # retired in the meantime
            return
        request = EvaluationRequest(
            task=pending.runner.task,
            version=pending.version,
            bundle=pending.runner.setup.bundle.folder,
            adapter=pending.runner.versions.measured(pending.version),
            sets={name: Path(path) for name, path in settings.evaluation.sets.items()},
            batch_size=settings.evaluation.batch_size,
            max_tokens=settings.plan.max_tokens,
            has_base_change=pending.runner.setup.strategy.needs.open_base,
        )
        self._running = pending
        try:
            self._evaluator.start(request, self._outcomes.put)
        except (EngineError, StorageError) as error:
            self._running = None
            self._failed(pending, error)

    def _keep(self, pending: _Pending, outcome: EvaluateResult | EdgefoldError) -> None:
        if not pending.runner.versions.has(pending.version):
            return
        if isinstance(outcome, EdgefoldError):
            self._failed(pending, outcome)
            return
        sets = {
            name: SetScore(accuracy=one.n_correct / one.n_examples, loss=one.loss, n_examples=one.n_examples)
            for name, one in outcome.sets.items()
        }
        evaluation = Evaluation(task=pending.runner.task, version=pending.version, sets=sets, wall_s=outcome.wall_s)
        self._store.add_evaluation(evaluation)
        event(
            "version-evaluated",
            task=evaluation.task,
            version=evaluation.version,
            pooled_accuracy=evaluation.pooled_accuracy,
            loss=evaluation.pooled_loss,
            sets={
                name: {"accuracy": s.accuracy, "loss": s.loss, "n_examples": s.n_examples} for name, s in sets.items()
            },
            wall_s=evaluation.wall_s,
        )

    def _failed(self, pending: _Pending, error: EdgefoldError) -> None:
        n_tries = pending.n_tries + 1
        task, version = pending.runner.task, pending.version
        event("evaluation-failed", level=logging.ERROR, task=task, version=version, n_tries=n_tries, error=str(error))
        if n_tries < _MAX_TRIES:
            self._waiting.append(_Pending(runner=pending.runner, version=pending.version, n_tries=n_tries))
