"""Trains the personal part of this device when it is idle, and keeps it only if it does better in the exam.

Workflow: something is new (enough examples, a drift, another global version) -> train on the store, on top of the
served version -> examine that version with and without -> keep or remove. One trainer process at a time; a round that
begins ends it, and it is tried again later.

Laws: nothing of it is sent; what is served is never worse on the exam than the global adapter; it loads no runtime.

Source: local fine-tuning of a global model, kept where it helps: Wang et al. 2019, "Federated Evaluation of On-device
Personalization", arXiv:1910.10252.
"""

from __future__ import annotations

import json
import queue
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from edge_agent.adapters.example_views import STORE_FILE, view
from edge_agent.adapters.personal_part import (
    PersonalFacts,
    keep_personal,
    personal_facts,
    personal_file,
    remove_personal,
)
from edge_agent.adapters.scores import load_scores
from edge_agent.adapters.served_work import newest_served, read_work
from host.durable import make_folder, read_bytes, write_bytes
from host.logs import event as log
from protocol.errors import EdgefoldError, StorageError
from protocol.fields import FieldError, Range, plain, structure
from protocol.jobs import PERSONAL_FILE, EvaluateJob, EvaluateResult, TrainJob, TrainResult
from protocol.plan import Codec, Optimizer, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge_agent.continual_settings import ContinualSettings
    from edge_agent.ports import Running
    from protocol.messages import Work

    Job: TypeAlias = TrainJob | EvaluateJob
    Result: TypeAlias = TrainResult | EvaluateResult
    Start: TypeAlias = Callable[[Job, Callable[[Result | EdgefoldError], None]], Running]

__all__ = ["Job", "PersonalTraining", "Result"]

_LOOK_EVERY_S: Final = 20.0
_MAX_BYTES: Final = 4096
_SET: Final = "exam"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """What there was when the personal part was last tried."""

    n_tested: Annotated[int, Range(0, 2**53)] = 0
    n_drifts: Annotated[int, Range(0, 2**53)] = 0
    version: Annotated[int, Range(-1, 2**31)] = -1


@dataclass(slots=True)
class _Attempt:
    """One training and its exams, as far as it has come."""

    work: Work
    bundle: str
    now: _Tried
    n_examples: int = 0
    accuracies: tuple[tuple[int, float], ...] = ()  # (examined, right as a fraction): without, with


class PersonalTraining:
    """One device's personal part of one task."""

    def __init__(
        self,
        folder: Path,
        store: Path,
        settings: ContinualSettings,
        *,
        bundles: Mapping[str, Path],
        task: str | None,
        start: Start,
    ) -> None:
        """Work in the agent's ``folder``; ``bundles`` are checked folders by id and may grow."""
        self._folder, self._store, self._settings = folder, store, settings
        self._bundles, self._task, self._start = bundles, task, start
        self._out = make_folder(folder / "personal-work")
        self._ends: queue.SimpleQueue[Result | EdgefoldError] = queue.SimpleQueue()
        self._running: Running | None = None
        self._attempt: _Attempt | None = None
        self._looked_s, self._began_s = float("-inf"), 0.0

    def turn(self, *, is_idle: bool) -> None:
        """Begin, go on or give up; called again and again."""
        now_s = time.monotonic()
        overran = self._running is not None and now_s - self._began_s > self._settings.personal_deadline_s
        if not is_idle or overran:
            return self.close()
        try:
            while not self._ends.empty():
                self._on_end(self._ends.get())
            if self._attempt is None and now_s - self._looked_s >= _LOOK_EVERY_S:
                self._looked_s = now_s
                self._begin_if_due()
        except EdgefoldError as error:
            self._give_up(str(error))
        return None

    def close(self) -> None:
        """End what runs; it is begun anew when the device is idle again."""
        if self._running is not None:
            self._running.close()
            self._running = None
        self._attempt = None
        while not self._ends.empty():
            self._ends.get()

    def _begin_if_due(self) -> None:
        path = newest_served(self._folder, self._task)
        if path is None or not (self._store / STORE_FILE).is_file():
            return
        scores, tried, work = load_scores(self._folder), self._tried(), read_work(path)
        now = _Tried(n_tested=scores.n_tested, n_drifts=scores.n_drifts, version=work.version)
        has_personal = personal_facts(self._folder, work.task) is not None
        is_due = now.n_tested - tried.n_tested >= self._settings.personal_min_examples
        is_due |= now.n_drifts > tried.n_drifts or (has_personal and now.version != tried.version)
        if not is_due or work.bundle_id not in self._bundles:
            return
        log("personal-training-started", task=work.task, version=work.version)
        self._began_s = time.monotonic()
        self._attempt = _Attempt(work=work, bundle=str(self._bundles[work.bundle_id]), now=now)
        write_bytes(self._out / "adapter.payload", work.adapter)
        self._run(self._train_job(self._attempt))

    def _train_job(self, attempt: _Attempt) -> TrainJob:
        settings, work = self._settings, attempt.work
        plan = Plan(
            epochs=settings.personal_epochs,
            batch_size=work.plan.batch_size,
            micro_batch=work.plan.micro_batch,
            max_tokens=work.plan.max_tokens,
            optimizer=Optimizer(learning_rate=settings.personal_learning_rate),
            codec=Codec(name="float32"),
            terms=work.plan.terms if work.plan.terms is None else replace(work.plan.terms, frozen_roles=None),
        )
        return TrainJob(
            bundle=attempt.bundle,
            data=str(view(self._store, "all")),
            out=str(self._out),
            plan=plan,
            adapter=str(self._out / "adapter.payload"),
            keep_delta=True,
        )

    def _exam_job(self, attempt: _Attempt, personal: Path | None) -> EvaluateJob:
        return EvaluateJob(
            bundle=attempt.bundle,
            sets={_SET: str(view(self._store, "exam"))},
            adapter=str(self._out / "adapter.payload"),
            personal=None if personal is None else str(personal),
            has_base_change=attempt.work.plan.terms is not None and bool(attempt.work.plan.terms.base_change),
            max_tokens=attempt.work.plan.max_tokens,
        )

    def _run(self, job: Job) -> None:
        self._running = self._start(job, self._ends.put)

    def _on_end(self, outcome: Result | EdgefoldError) -> None:
        attempt, self._running = self._attempt, None
        if attempt is None:
            return
        match outcome:
            case TrainResult():
                attempt.n_examples = outcome.n_examples
                self._run(self._exam_job(attempt, None))
            case EvaluateResult():
                found = outcome.sets[_SET]
                attempt.accuracies = (*attempt.accuracies, (found.n_examples, found.n_correct / found.n_examples))
                if len(attempt.accuracies) == 1:
                    self._run(self._exam_job(attempt, self._out / PERSONAL_FILE))
                else:
                    self._judge(attempt)
            case _:
                self._give_up(str(outcome))

    def _judge(self, attempt: _Attempt) -> None:
        (_, without), (n_exam, with_it) = attempt.accuracies
        is_better = with_it > without
        if is_better:
            facts = PersonalFacts(
                task=attempt.work.task,
                bundle_id=attempt.work.bundle_id,
                version=attempt.work.version,
                n_examples=attempt.n_examples,
                n_exam=n_exam,
                global_accuracy=without,
                personal_accuracy=with_it,
                unix_s=time.time(),
            )
            keep_personal(self._folder, self._out / PERSONAL_FILE, facts)
        elif personal_file(self._folder, attempt.work.task).exists():
            remove_personal(self._folder, attempt.work.task)
        log("personal-part-judged", kept=is_better, without=without, with_it=with_it, n_exam=n_exam)
        self._done(attempt)

    def _give_up(self, why: str) -> None:
        log("personal-training-failed", error=why)
        if self._attempt is not None:
            self._done(self._attempt)
        self.close()

    def _done(self, attempt: _Attempt) -> None:
        write_bytes(self._out / "tried.json", json.dumps(plain(attempt.now)).encode())
        self._attempt = None

    def _tried(self) -> _Tried:
        try:
            return structure(_Tried, json.loads(read_bytes(self._out / "tried.json", max_bytes=_MAX_BYTES)))
        except (FileNotFoundError, StorageError, FieldError, ValueError, RecursionError):
            return _Tried()
