"""A round's training on this device: the trainer's job is made of what is here, its end becomes an event.

Workflow: bundle and lesson -> job -> trainer -> its result -> a sealed update in the outbox, or a delta kept for a
secure sum -> ``Trained`` or ``TrainedForSum``. Where bundle, examples or trainer fail it is ``TrainingFailed``, which
the session counts.

Laws: what a training leaves is on the disk before its event is returned; a training that is no longer the session's
says nothing. Does not know when it may train (``conduct``) and sends nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from edge_agent.adapters.refusal import save_refusal
from edge_agent.core.session import Trained, TrainingFailed
from edge_agent.device_metrics import metrics_for
from edge_agent.train_job import make_train_job
from edge_agent.update_sealing import seal_update
from host.durable import read_bytes
from host.logs import event as log
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import ConfigError, EdgefoldError, EngineError, StorageError
from protocol.jobs import UPDATE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge_agent.adapters.device_folder import DeviceFolder
    from edge_agent.config import AgentConfig
    from edge_agent.core.session import Job
    from edge_agent.core.summing import TrainedForSum
    from edge_agent.durable_session import DurableSession
    from edge_agent.lessons import Lessons
    from edge_agent.ports import StartTrainer
    from edge_agent.sample_budget import SampleBudget
    from edge_agent.summing import Summing
    from edge_agent.trainer_runs import TrainerRuns
    from protocol.jobs import Progress, TrainResult
    from protocol.messages import Work
    from protocol.signing import SigningKey

__all__ = ["Training"]

_PROGRESS_LOG_EVERY_S: Final = 2.0


class Training:
    """Trains the session's job."""

    def __init__(  # noqa: PLR0913 - the ports are the arguments
        self,
        config: AgentConfig,
        *,
        session: DurableSession,
        folder: DeviceFolder,
        lessons: Lessons,
        bundles: Mapping[str, Path],
        budget: SampleBudget,
        key: SigningKey,
        runs: TrainerRuns,
        start: StartTrainer,
        summing: Summing,
        clock: Callable[[], float],
    ) -> None:
        """Train nothing yet.

        Args:
            config: the device's settings.
            session: what is to be trained.
            folder: the agent's own folder, with the work.
            lessons: what rounds train on.
            bundles: folders of the checked bundles by id; others change it.
            budget: what trainings may cost the device's examples.
            key: signs the update.
            runs: holds the running trainer.
            start: starts one.
            summing: takes the delta of a round that asks for a secure sum.
            clock: seconds that only go up.
        """
        self._config, self._session, self._folder, self._lessons = config, session, folder, lessons
        self._bundles, self._budget, self._key = bundles, budget, key
        self._runs, self._start, self._summing, self._clock = runs, start, summing, clock
        self._progress_logged_s = 0.0

    def begin(self, job: Job) -> None:
        """Start a trainer for ``job``; that it cannot be started is an end like others.

        Raises:
            StorageError: the work is missing or damaged, or nothing can be written.
        """
        on_end = partial(self._on_end, job)
        bundle = self._bundles.get(job.bundle_id)
        if bundle is None:  # removed by hand, or damaged, since the work came
            return self._runs.fail(EngineError(f"bundle {job.bundle_id[:12]} is no longer here"), on_end)
        work = self._folder.load_work()
        self._folder.clear_scratch()
        try:
            lesson = self._lessons.of(job.task, work.plan)
        except (ConfigError, StorageError) as error:
            return self._runs.fail(error, on_end)
        train_job = make_train_job(
            work,
            lesson,
            bundle=bundle,
            folder=self._folder,
            state=self._session.state,
            config=self._config,
            budget=self._budget,
        )
        log("training-started", task=job.task, round=job.round)
        return self._runs.start(partial(self._start, train_job, on_progress=self._on_progress), on_end)

    def _on_progress(self, progress: Progress) -> None:
        now_s = self._clock()
        if now_s - self._progress_logged_s >= _PROGRESS_LOG_EVERY_S:
            self._progress_logged_s = now_s
            log("training-progress", step=progress.step, n_steps=progress.n_steps, loss=progress.loss)

    def _on_end(
        self, job: Job, outcome: TrainResult | EdgefoldError
    ) -> Trained | TrainedForSum | TrainingFailed | None:
        if self._session.state.phase != "training":
            return None  # of a round that closed
        self._runs.over()
        if isinstance(outcome, EdgefoldError):
            log("training-failed", task=job.task, round=job.round, error=str(outcome))
            why = f"its training failed: {outcome}"
            save_refusal(self._folder.root, task=job.task, round_=job.round, why=why)
            return TrainingFailed(max_attempts=self._config.trainer.max_attempts)
        _log_done(job, outcome)
        work = self._folder.load_work()
        self._lessons.learnt(job.task, job.round, self._folder.scratch)
        if work.secure_sum is not None:
            return self._summing.begin(work, n_examples=outcome.n_examples)
        return Trained(update_id=self._put_into_outbox(work, outcome))

    def _put_into_outbox(self, work: Work, result: TrainResult) -> bytes:
        delta = read_bytes(self._folder.scratch / UPDATE_FILE, max_bytes=MAX_MESSAGE_BYTES)
        whose = {"fleet": self._config.device.fleet, "device": self._config.device.id}
        metrics = metrics_for(work, self._config.privacy.metrics, self._folder.root)
        update_id, envelope = seal_update(work, result, delta, **whose, key=self._key, metrics=metrics)
        self._folder.save_update(update_id, envelope)
        return update_id


def _log_done(job: Job, result: TrainResult) -> None:
    log(
        "training-done",
        task=job.task,
        round=job.round,
        loss=result.loss,
        n_steps=result.n_steps,
        train_s=result.train_s,
        wall_s=result.wall_s,
        peak_memory_bytes=result.peak_memory_bytes,
    )
