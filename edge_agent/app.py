"""The agent: an event pump around the session's table. Loads no ML runtime, not even numpy.

Workflow of one event: check it -> store what it brings -> step the table -> save the state -> do the actions. A crash
between any two of these leaves a state from which ``Resume`` does the same again.

Threads: this one, the link's, and one for each running trainer's pipe; the latter two only put events into queues.
"""

from __future__ import annotations

import os
import queue
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from edge_agent.adapter_seal import AdapterSeal
from edge_agent.adapters.refusal import Refusal, save_refusal
from edge_agent.core.heard import hear
from edge_agent.core.resend import Resend
from edge_agent.core.session import (
    SUM_PHASES,
    Action,
    Declined,
    Event,
    Job,
    Receipted,
    Resume,
    SendJoin,
    SendUpdate,
    StartTraining,
    StopTraining,
    Trained,
    TrainingFailed,
    WorkArrived,
    step,
)
from edge_agent.core.summing import (
    Followed,
    GivenUp,
    SendStep,
    StepFailed,
    StepTaken,
    TakeStep,
    TrainedForSum,
)
from edge_agent.device_metrics import metrics_for
from edge_agent.latest import latest_versions
from edge_agent.messages_in import announced_by, open_message
from edge_agent.sample_budget import SampleBudget
from edge_agent.train_job import make_train_job
from edge_agent.update_sealing import seal_update
from edge_agent.uploads import Outgoing, Uploads
from host.durable import read_bytes
from host.link import LinkDown, LinkUp, Received
from host.logs import event as log
from protocol import topics
from protocol.errors import (
    ConfigError,
    EdgefoldError,
    EngineError,
    LocalProtocolError,
    RemoteProtocolError,
    StorageError,
)
from protocol.jobs import UPDATE_FILE, Progress, SumStepResult, TrainResult
from protocol.messages import (
    MAX_MESSAGE_BYTES,
    Announce,
    Body,
    Certificate,
    Decline,
    Join,
    Latest,
    Receipt,
    SumNext,
    Work,
    kind_of,
)
from protocol.signing import SigningKey, VerifyKey, sign
from protocol.uploads import Uploaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge_agent.adapters.device_folder import DeviceFolder
    from edge_agent.bundle_fetch import BundleFetch
    from edge_agent.conduct import Conduct
    from edge_agent.config import AgentConfig
    from edge_agent.lessons import Lessons
    from edge_agent.ports import Beside, Running, StartTrainer
    from edge_agent.renewal import Renewal
    from edge_agent.sums import DeviceSums
    from host.link import Link
    from protocol.messages import SumStepName

__all__ = ["Agent"]

_MAX_WAIT_S: Final = 30.0  # how long the pump sleeps when nothing is due; messages and trainers wake it
_PROGRESS_LOG_EVERY_S: Final = 2.0
# After a receipt of a sum's step: what follows comes by itself when the others have answered.
_ASK_AGAIN_S: Final = 30.0


class Agent:
    """One device's agent."""

    def __init__(  # noqa: PLR0913 - the ports are the arguments
        self,
        config: AgentConfig,
        *,
        lessons: Lessons,
        bundles: Mapping[str, Path],
        key: SigningKey,
        link: Link,
        folder: DeviceFolder,
        start_trainer: StartTrainer,
        service_key: VerifyKey,
        renewal: Renewal | None = None,
        sums: DeviceSums | None = None,
        fetch: BundleFetch | None = None,
        conduct: Conduct | None = None,
        beside: Beside | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take up the saved state.

        Args:
            config: the device's settings.
            lessons: what rounds train on.
            bundles: folders of the checked bundles by id.
            key: the device's signing key.
            link: a link subscribed to this device's ``down`` topics and the announcements.
            folder: the agent's own folder.
            start_trainer: starts trainer processes.
            service_key: whom to believe.
            renewal: looks after the certificate of a device that has one.
            sums: takes part in secure sums; without it such rounds are left alone.
            fetch: brings bundles that are not here; without it their tasks are left alone.
            conduct: keeps the owner's rules; without it there are none.
            beside: what the device does beside its rounds.
            clock: seconds that only go up, for waiting.
        """
        self._config, self._device, self._trainer_settings = config, config.device, config.trainer
        self._clock = clock
        self._lessons, self._bundles, self._key = lessons, dict(bundles), key
        self._fetch, self._conduct = fetch, conduct
        self._service, self._renewal, self._sums, self._beside = service_key, renewal, sums, beside
        self._link, self._folder, self._start_trainer = link, folder, start_trainer
        self._budget = SampleBudget(config.privacy, folder=folder.root, data=lessons.data)
        self._state = folder.load_state()
        self._seal_of_adapter = AdapterSeal(fleet=config.device.fleet, device=config.device.id)
        self._uploads = Uploads(config.broker, say=self._say, publish=self._publish)
        self._latest = latest_versions(config, folder.root, say=self._say)
        self._announced: dict[str, Announce] = {}  # the latest of each task, to choose from when idle
        self._running: Running | None = None
        self._n_stopped = 0  # trainers that were ended from here: what they say later does not count
        self._ends: queue.SimpleQueue[tuple[int, Job, TrainResult | EdgefoldError]] = queue.SimpleQueue()
        self._steps: queue.SimpleQueue[tuple[Job, SumStepName, SumStepResult | EdgefoldError]] = queue.SimpleQueue()
        self._heard_s = self._clock()  # of this sum, from the service
        self._resend: Resend | None = None
        self._sending: Action | None = None
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._progress_logged_s = 0.0
        self.bytes_up, self.bytes_down = 0, 0

    def run(self, should_stop: queue.SimpleQueue[None]) -> None:
        """Work until something is put into ``should_stop`` (and the link is woken)."""
        if self._beside is not None:
            self._beside.turn(is_idle=False)
        log("agent-ready", device=self._device.id, phase=self._state.phase, pid=os.getpid())
        if self._conduct is not None:
            self._conduct.turn(None)  # before anything is trained or sent
        if self._state.phase in ("training", "summing"):
            self._apply(Resume())
        elif self._sums is not None and self._state.phase not in SUM_PHASES:
            self._sums.folder.wipe()
        try:
            while should_stop.empty():
                self.turn()
        finally:
            self._stop_trainer()
            if self._beside is not None:
                self._beside.close()

    def turn(self) -> None:
        """Wait for one event and handle it."""
        now_s = self._clock()
        wait_s = _MAX_WAIT_S if self._resend is None else min(_MAX_WAIT_S, self._resend.due_s - now_s)
        look_s = None if self._conduct is None else self._conduct.wait_s
        wait_s = wait_s if look_s is None else min(wait_s, look_s)
        event = self._link.receive(max(0.0, wait_s))
        match event:
            case Received():
                self._on_message(event)
                self._link.acknowledge(event)
            case LinkUp(mqtt=mqtt, max_packet_bytes=max_packet_bytes):
                log("link-up", mqtt=mqtt)
                self._uploads.max_packet_bytes = max_packet_bytes
                self._apply(Resume())
            case LinkDown(why=why):
                log("link-down", why=why)
        while not self._ends.empty():
            self._on_trainer_end(*self._ends.get())
        while not self._steps.empty():
            self._on_step_end(*self._steps.get())
        self._keep_rules()
        self._give_up_if_due()
        self._send_what_is_due()
        self._renew_if_due()
        self._fetch_bundles()
        self._ask_for_latest()
        if self._beside is not None:
            may_train = self._conduct is None or self._conduct.may_train
            self._beside.turn(is_idle=self._state.phase == "idle" and self._running is None and may_train)

    def _on_message(self, message: Received) -> None:
        try:
            body = open_message(message, fleet=self._device.fleet, service_key=self._service)
            event = self._event_of(body)
        except RemoteProtocolError as error:
            log("message-refused", topic=message.topic, reason=error.reason, error=str(error))
            return
        self.bytes_down += len(message.topic) + len(message.payload)
        if event is not None:
            self._apply(event)

    def _event_of(self, body: Body) -> Event | None:
        """Return what ``body`` means to the session; store first what it brings."""
        match body:
            case Announce():
                return self._on_announce(body)
            case Work():
                return self._on_work(body)
            case Decline():
                log("round-declined", task=body.task, round=body.round, reason=body.reason)
                return Declined(task=body.task, round=body.round)
            case Receipt():
                return self._on_receipt(body)
            case SumNext():
                return self._on_next(body)
            case Uploaded():
                self._on_uploaded(body)
            case Latest() if self._latest is not None:
                self._latest.take(body, self._state.heard, self._announced)
            case Certificate() if self._renewal is not None:
                self._renewal.take(body)
            case _:
                raise RemoteProtocolError(f"a device takes no {type(body).__name__}", reason="malformed")
        return None

    def _on_receipt(self, receipt: Receipt) -> Event:
        if receipt.update_id == self._state.update_id:
            self._folder.save_receipt(receipt)
            log(
                "update-receipted",
                task=receipt.task,
                round=receipt.round,
                update_id=receipt.update_id.hex(),
                status=receipt.status,
                reason=receipt.reason,
                bytes_up=self.bytes_up,
                bytes_down=self.bytes_down,
            )
        return Receipted(update_id=receipt.update_id, is_accepted=receipt.status == "accepted")

    def _on_announce(self, announce: Announce) -> Event | None:
        if not self._is_news(announce):
            return None
        known = self._announced.get(announce.task)
        if announce.state == "open" and announce.bundle_id not in self._bundles:
            if known != announce:
                log("bundle-missing", task=announce.task, bundle_id=announce.bundle_id)
            self._announced[announce.task] = announce
            return None
        self._announced[announce.task] = announce
        return announced_by(announce)

    def _on_work(self, work: Work) -> Event | None:
        job = self._state.job
        if self._state.phase != "joining" or job is None:
            return None
        if (work.task, work.round, work.bundle_id) != (job.task, job.round, job.bundle_id):
            return None
        if not self._is_news(work):
            return None
        work = self._seal_of_adapter.open(work)
        why_not = self._why_not(work)
        if why_not is not None:
            log("work-refused", task=work.task, round=work.round, why=why_not)
            self._keep_refusal(work.task, work.round, why_not)
            return Declined(task=work.task, round=work.round)
        self._folder.save_work(work)
        self._seal_of_adapter.forget()
        return WorkArrived(task=work.task, round=work.round, bundle_id=work.bundle_id)

    def _is_news(self, said: Announce | Work) -> bool:
        """Return whether it is no older than what was heard, after keeping that it was heard."""
        heard = hear(self._state.heard, task=said.task, round_=said.round, version=said.version)
        if heard is None:
            log("rollback-refused", kind=kind_of(said), task=said.task, round=said.round, version=said.version)
            return False
        if heard != self._state.heard:
            state = replace(self._state, heard=heard)
            self._folder.save_state(state)
            self._state = state
        return True

    def _why_not(self, work: Work) -> str | None:
        if self._sums is not None:
            why_not = self._sums.why_not(work.secure_sum)
        else:
            why_not = None if work.secure_sum is None else "this agent takes part in no secure sum"
        return why_not or self._budget.why_not(work)

    def _keep_refusal(self, task: str, round_: int, why: str) -> None:
        save_refusal(self._folder.root, Refusal(task=task, round=round_, why=why[:500]))

    def _on_next(self, following: SumNext) -> Event | None:
        event, job = Followed(task=following.task, round=following.round, step=following.step), self._state.job
        after, _ = step(self._state, event)
        if self._sums is None or job is None or after == self._state:
            return None  # of another sum, or of a step that was taken: the first answer counts
        self._heard_s = self._clock()
        self._sums.take_next(following)
        return event

    def _apply(self, event: Event) -> None:
        after, actions = step(self._state, event)
        if after != self._state:
            self._folder.save_state(after)
            if self._sums is not None and self._state.phase in SUM_PHASES and after.phase not in SUM_PHASES:
                self._sums.folder.wipe()
            self._state = after
            self._resend = self._sending = None
        for action in actions:
            self._do(action)
        self._look_for_work()

    def _look_for_work(self) -> None:
        if self._state.phase != "idle":
            return
        for announce in self._announced.values():
            if announce.bundle_id not in self._bundles:
                continue
            after, _ = step(self._state, announced_by(announce))
            if after != self._state:
                self._apply(announced_by(announce))
                return

    def _do(self, action: Action) -> None:
        match action:
            case SendJoin(job=job):
                self._sending = action
                self._resend = Resend.begin(self._clock(), wait_s=self._random.uniform(0, self._spread_s(job)))
            case SendUpdate():
                self._sending, self._resend = action, Resend.begin(self._clock())
            case SendStep(is_receipted=is_receipted):
                now_s = self._clock()
                self._resend = Resend.later(now_s, _ASK_AGAIN_S) if is_receipted else Resend.begin(now_s)
                self._sending, self._heard_s = action, now_s
            case TakeStep(step=name):
                if self._running is None:
                    self._take_step(name)
            case StartTraining(job=job):
                if self._running is None:
                    self._train(job)
            case StopTraining():
                self._stop_trainer()

    def _spread_s(self, job: Job) -> float:
        announce = self._announced.get(job.task)  # none after a restart: then nobody else calls at this moment
        return 0.0 if announce is None or announce.round != job.round else announce.spread_s or 0.0

    def _send_what_is_due(self) -> None:
        now_s = self._clock()
        if self._resend is None or now_s < self._resend.due_s:
            return
        if self._conduct is not None and not self._conduct.may_do(self._sending):
            self._resend = Resend.later(now_s, _ASK_AGAIN_S)
            return
        self._resend = self._resend.sent(now_s, self._random)
        match self._sending:
            case SendJoin(job=job):
                seal_key = self._seal_of_adapter.public(job.task, job.round) if job.seal_adapter else None
                self._say(Join(task=job.task, round=job.round, bundle_id=job.bundle_id, seal_key=seal_key))
            case SendUpdate() | SendStep() as action:
                self._send(action)

    def _renew_if_due(self) -> None:
        renew = None if self._renewal is None else self._renewal.due()
        if renew is not None:
            self._say(renew)

    def _fetch_bundles(self) -> None:
        if self._conduct is not None and not self._conduct.may_send:
            return
        needed = {one.bundle_id for one in self._announced.values() if one.state == "open"}
        job = self._state.job
        if self._fetch is not None and self._fetch.turn(needed | ({job.bundle_id} if job else set()), self._bundles):
            self._look_for_work()

    def _ask_for_latest(self) -> None:
        if self._latest is None or (self._conduct is not None and not self._conduct.may_send):
            return
        ours = {task: one for task, one in self._announced.items() if one.bundle_id in self._bundles}
        self._latest.turn(self._clock(), ours, busy_with=None if self._state.job is None else self._state.job.task)

    def _send(self, action: SendUpdate | SendStep) -> None:
        try:
            self._uploads.send(self._outgoing(action))
        except StorageError as error:
            self._give_up_message(action.update_id, error)

    def _on_uploaded(self, said: Uploaded) -> None:
        action, now_s = self._sending, self._clock()
        if not isinstance(action, (SendUpdate, SendStep)) or action.update_id != said.update_id:
            return
        if self._conduct is not None and not self._conduct.may_do(action):
            return
        try:
            match self._uploads.heard(said, self._outgoing(action)):
                case "went on":
                    self._resend = Resend.later(now_s, _ASK_AGAIN_S)
                case "ask":
                    self._resend = Resend.begin(now_s)
        except StorageError as error:
            self._give_up_message(action.update_id, error)

    def _outgoing(self, action: SendUpdate | SendStep) -> Outgoing:
        if isinstance(action, SendStep):
            return Outgoing.of("sum-step", action.update_id, self._summing().envelope(action.update_id))
        n_bytes, read = self._folder.open_update(action.update_id)
        return Outgoing(kind="update", update_id=action.update_id, n_bytes=n_bytes, read=read)

    def _give_up_message(self, update_id: bytes, error: StorageError) -> None:
        # A damaged disk: give this round up rather than stop learning for good; a sum's others recover a drop-out.
        log("outbox-lost", update_id=update_id.hex(), error=str(error))
        self._apply(Receipted(update_id=update_id, is_accepted=False))

    def _say(self, body: Body) -> bool:
        """Sign ``body`` and hand it to the link; return whether it went out."""
        return self._publish(kind_of(body), sign(body, fleet=self._device.fleet, sender=self._device.id, key=self._key))

    def _publish(self, kind: str, envelope: bytes) -> bool:
        topic = topics.up(self._device.fleet, self._device.id, kind)
        if not self._link.publish(topic, envelope):
            return False
        self.bytes_up += len(topic) + len(envelope)
        if self._conduct is not None:
            self._conduct.sent(len(topic) + len(envelope))
        log(f"{kind}-sent", bytes=len(envelope))
        return True

    def _keep_rules(self) -> None:
        if self._conduct is None:
            return
        is_training = self._state.phase == "training"
        if self._conduct.turn(self._running if is_training else None):
            self._stop_trainer()
        if is_training and self._running is None and self._state.job is not None:
            self._train(self._state.job)

    def _train(self, job: Job) -> None:
        if self._conduct is not None and not self._conduct.may_train:
            return  # ``_keep_rules`` tries again
        if job.bundle_id not in self._bundles:  # removed by hand, or damaged, since the work came
            self._ends.put((self._n_stopped, job, EngineError(f"bundle {job.bundle_id[:12]} is no longer here")))
            return
        work = self._folder.load_work()
        self._folder.clear_scratch()
        try:
            lesson = self._lessons.of(job.task, work.plan)
        except (ConfigError, StorageError) as error:
            self._ends.put((self._n_stopped, job, error))
            return
        train_job = make_train_job(
            work,
            lesson,
            bundle=self._bundles[job.bundle_id],
            folder=self._folder,
            state=self._state,
            config=self._config,
            budget=self._budget,
        )
        number = self._n_stopped
        log("training-started", task=job.task, round=job.round)
        try:
            self._running = self._start_trainer(
                train_job,
                on_end=lambda outcome: self._trainer_ended(number, job, outcome),
                on_progress=self._on_progress,
            )
        except EngineError as error:
            self._ends.put((number, job, error))

    def _trainer_ended(self, number: int, job: Job, outcome: TrainResult | EdgefoldError) -> None:
        self._ends.put((number, job, outcome))  # on the trainer's thread: nothing but this
        self._link.wake()

    def _on_progress(self, progress: Progress) -> None:
        now_s = self._clock()
        if now_s - self._progress_logged_s >= _PROGRESS_LOG_EVERY_S:
            self._progress_logged_s = now_s
            log("training-progress", step=progress.step, n_steps=progress.n_steps, loss=progress.loss)

    def _on_trainer_end(self, number: int, job: Job, outcome: TrainResult | EdgefoldError) -> None:
        if number != self._n_stopped or self._state.phase != "training":
            return None  # ended from here
        self._running = None
        if isinstance(outcome, EdgefoldError):
            log("training-failed", task=job.task, round=job.round, error=str(outcome))
            self._keep_refusal(job.task, job.round, f"its training failed: {outcome}")
            self._apply(TrainingFailed(max_attempts=self._trainer_settings.max_attempts))
            return None
        log(
            "training-done",
            task=job.task,
            round=job.round,
            loss=outcome.loss,
            n_steps=outcome.n_steps,
            train_s=outcome.train_s,
            wall_s=outcome.wall_s,
            peak_memory_bytes=outcome.peak_memory_bytes,
        )
        work = self._folder.load_work()
        self._lessons.learnt(job.task, job.round, self._folder.scratch)
        if work.secure_sum is None:
            delta = read_bytes(self._folder.scratch / UPDATE_FILE, max_bytes=MAX_MESSAGE_BYTES)
            whose = {"fleet": self._device.fleet, "device": self._device.id}
            metrics = metrics_for(work, self._config.privacy.metrics, self._folder.root)
            update_id, envelope = seal_update(work, outcome, delta, **whose, key=self._key, metrics=metrics)
            self._folder.save_update(update_id, envelope)
            return self._apply(Trained(update_id=update_id))
        self._summing().begin(work, self._folder.scratch, outcome.n_examples)
        return self._apply(TrainedForSum())

    def _summing(self) -> DeviceSums:
        if self._sums is None:  # such work is refused
            raise LocalProtocolError("a secure sum without the parts for it")
        return self._sums

    def _take_step(self, name: SumStepName) -> None:
        """Have a trainer compute a step, unless it was taken before a crash."""
        sums, job = self._summing(), self._state.job
        if job is None:
            raise LocalProtocolError("a step of no round")
        self._heard_s = self._clock()
        try:
            if (update_id := sums.taken(job, name)) is not None:
                return self._apply(StepTaken(update_id=update_id))
            self._folder.clear_scratch()
            step_job = sums.job(self._folder.load_work(), name, self._folder.scratch)
            self._running = sums.start(step_job, on_end=lambda outcome: self._step_ended(job, name, outcome))
        except (EngineError, StorageError) as error:
            self._steps.put((job, name, error))
        return None

    def _step_ended(self, job: Job, name: SumStepName, outcome: SumStepResult | EdgefoldError) -> None:
        self._steps.put((job, name, outcome))  # on the trainer's thread: nothing but this
        self._link.wake()

    def _on_step_end(self, job: Job, name: SumStepName, outcome: SumStepResult | EdgefoldError) -> None:
        current = self._state.job
        is_current = current is not None and (current.task, current.round) == (job.task, job.round)
        if self._state.phase != "summing" or self._state.sum_step != name or not is_current:
            return None
        self._stop_trainer()
        if isinstance(outcome, EdgefoldError):
            log("sum-step-failed", task=job.task, round=job.round, step=name, error=str(outcome))
            return self._apply(StepFailed())
        update_id = self._summing().finish(self._folder.load_work(), name, self._folder.scratch)
        self._folder.clear_scratch()  # it had this step's secrets
        log("sum-step-taken", task=job.task, round=job.round, step=name, wall_s=outcome.wall_s)
        return self._apply(StepTaken(update_id=update_id))

    def _give_up_if_due(self) -> None:
        if self._state.phase == "waiting" and self._sums is not None:
            silent_s = self._clock() - self._heard_s
            if silent_s > self._sums.settings.give_up_s:
                log("sum-given-up", silent_s=round(silent_s, 1))
                self._apply(GivenUp())

    def _stop_trainer(self) -> None:
        if self._running is not None:
            self._n_stopped += 1
            self._running.close()
            self._running = None
