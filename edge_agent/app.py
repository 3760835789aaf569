"""The agent: an event pump around the session's table. Loads no ML runtime, not even numpy.

Workflow of one event: check it -> store what it brings -> step the table -> save the state -> do the actions. A crash
between any two of these leaves a state from which ``Resume`` does the same again.

What lives here is the order of these, and what a message means. Each part has a file of its own: the saved state
(``durable_session``), what is announced (``announcements``), what is said (``uplink``, ``sending``), what trainers do
(``training``, ``summing``, ``trainer_runs``). A part returns its events; they are applied here alone.

Threads: this one, the link's, and one for each running trainer's pipe; the latter two only put events into queues.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from edge_agent.adapter_seal import AdapterSeal
from edge_agent.adapters.refusal import save_refusal
from edge_agent.announcements import Announcements
from edge_agent.core.session import (
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
    WorkArrived,
)
from edge_agent.core.summing import SendStep, TakeStep
from edge_agent.durable_session import DurableSession
from edge_agent.latest import latest_versions
from edge_agent.messages_in import open_message
from edge_agent.sample_budget import SampleBudget
from edge_agent.sending import Sending
from edge_agent.summing import Summing
from edge_agent.trainer_runs import TrainerRuns
from edge_agent.training import Training
from edge_agent.uplink import Uplink
from host.link import LinkDown, LinkUp, Received
from host.logs import event as log
from protocol.errors import RemoteProtocolError
from protocol.messages import Announce, Body, Certificate, Decline, Latest, Receipt, Work
from protocol.sum_round import SumNext
from protocol.uploads import Uploaded

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge_agent.adapters.device_folder import DeviceFolder
    from edge_agent.bundle_fetch import BundleFetch
    from edge_agent.conduct import Conduct
    from edge_agent.config import AgentConfig
    from edge_agent.core.session import SessionState
    from edge_agent.lessons import Lessons
    from edge_agent.ports import Beside, StartTrainer
    from edge_agent.renewal import Renewal
    from edge_agent.sums import DeviceSums
    from host.link import Link
    from protocol.signing import SigningKey, VerifyKey

__all__ = ["Agent"]

_MAX_WAIT_S: Final = 30.0  # how long the pump sleeps when nothing is due; messages and trainers wake it


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
        self._device, self._service, self._clock = config.device, service_key, clock
        self._link, self._folder, self._bundles = link, folder, dict(bundles)
        self._fetch, self._conduct, self._renewal, self._beside = fetch, conduct, renewal, beside
        self._bytes_down = 0
        self._session, self._announcements = DurableSession(folder), Announcements(self._bundles)
        self._budget = SampleBudget(config.privacy, folder=folder.root, data=lessons.data)
        self._seal_of_adapter = AdapterSeal(fleet=config.device.fleet, device=config.device.id)
        self._uplink = Uplink(config.device, key=key, link=link, conduct=conduct)
        self._latest = latest_versions(config, folder.root, say=self._uplink.say)
        self._runs = TrainerRuns(wake=link.wake)
        self._summing = Summing(sums, session=self._session, folder=folder, runs=self._runs, clock=clock)
        self._training = Training(
            config,
            session=self._session,
            folder=folder,
            lessons=lessons,
            bundles=self._bundles,
            budget=self._budget,
            key=key,
            runs=self._runs,
            start=start_trainer,
            summing=self._summing,
            clock=clock,
        )
        self._sending = Sending(
            config.broker,
            uplink=self._uplink,
            folder=folder,
            summing=self._summing,
            seal_of_adapter=self._seal_of_adapter,
            conduct=conduct,
            clock=clock,
        )

    @property
    def state(self) -> SessionState:
        """Where the device is in its round."""
        return self._session.state

    def run(self, should_stop: queue.SimpleQueue[None]) -> None:
        """Work until something is put into ``should_stop`` (and the link is woken)."""
        if self._beside is not None:
            self._beside.turn(is_idle=False)
        log("agent-ready", device=self._device.id, phase=self.state.phase, pid=os.getpid())
        if self._conduct is not None:
            self._conduct.turn(None)  # before anything is trained or sent
        if self.state.phase in ("training", "summing"):
            self._apply(Resume())
        else:
            self._summing.leave(None)
        try:
            while should_stop.empty():
                self.turn()
        finally:
            self._runs.stop()
            if self._beside is not None:
                self._beside.close()

    def turn(self) -> None:
        """Wait for one event and handle it."""
        event = self._link.receive(self._wait_s())
        match event:
            case Received():
                self._on_message(event)
                self._link.acknowledge(event)
            case LinkUp(mqtt=mqtt, max_packet_bytes=max_packet_bytes):
                log("link-up", mqtt=mqtt)
                self._sending.link_is_up(max_packet_bytes)
                self._apply(Resume())
            case LinkDown(why=why):
                log("link-down", why=why)
        for ended in self._runs.ended():
            self._apply(ended)
        self._keep_rules()
        self._apply_if_any(self._summing.give_up())
        self._apply_if_any(self._sending.turn())
        self._renew_if_due()
        self._fetch_bundles()
        self._ask_for_latest()
        if self._beside is not None:
            may_train = self._conduct is None or self._conduct.may_train
            self._beside.turn(is_idle=self.state.phase == "idle" and self._runs.running is None and may_train)

    def _wait_s(self) -> float:
        due_s = self._sending.due_s
        wait_s = _MAX_WAIT_S if due_s is None else min(_MAX_WAIT_S, due_s - self._clock())
        look_s = None if self._conduct is None else self._conduct.wait_s
        return max(0.0, wait_s if look_s is None else min(wait_s, look_s))

    def _on_message(self, message: Received) -> None:
        try:
            body = open_message(message, fleet=self._device.fleet, service_key=self._service)
            event = self._event_of(body)
        except RemoteProtocolError as error:
            log("message-refused", topic=message.topic, reason=error.reason, error=str(error))
            return
        self._bytes_down += len(message.topic) + len(message.payload)
        self._apply_if_any(event)

    def _event_of(self, body: Body) -> Event | None:
        """Return what ``body`` means to the session; store first what it brings."""
        event: Event | None = None
        match body:
            case Announce():
                event = self._announcements.take(body) if self._session.is_news(body) else None
            case Work():
                event = self._on_work(body)
            case Decline():
                log("round-declined", task=body.task, round=body.round, reason=body.reason)
                event = Declined(task=body.task, round=body.round)
            case Receipt():
                event = self._on_receipt(body)
            case SumNext():
                event = self._summing.follow(body)
            case Uploaded():
                event = self._sending.heard(body)
            case Latest() if self._latest is not None:
                self._latest.take(body, self.state.heard, self._announcements.latest)
            case Certificate() if self._renewal is not None:
                self._renewal.take(body)
            case _:
                raise RemoteProtocolError(f"a device takes no {type(body).__name__}", reason="malformed")
        return event

    def _on_receipt(self, receipt: Receipt) -> Event:
        if receipt.update_id == self.state.update_id:
            self._folder.save_receipt(receipt)
            log(
                "update-receipted",
                task=receipt.task,
                round=receipt.round,
                update_id=receipt.update_id.hex(),
                status=receipt.status,
                reason=receipt.reason,
                bytes_up=self._uplink.n_bytes,
                bytes_down=self._bytes_down,
            )
        return Receipted(update_id=receipt.update_id, is_accepted=receipt.status == "accepted")

    def _on_work(self, work: Work) -> Event | None:
        job = self.state.job
        if self.state.phase != "joining" or job is None:
            return None
        if (work.task, work.round, work.bundle_id) != (job.task, job.round, job.bundle_id):
            return None
        if not self._session.is_news(work):
            return None
        work = self._seal_of_adapter.open(work)
        why_not = self._summing.why_not(work.secure_sum) or self._budget.why_not(work)
        if why_not is not None:
            log("work-refused", task=work.task, round=work.round, why=why_not)
            save_refusal(self._folder.root, task=work.task, round_=work.round, why=why_not)
            return Declined(task=work.task, round=work.round)
        self._folder.save_work(work)
        self._seal_of_adapter.forget()
        return WorkArrived(task=work.task, round=work.round, bundle_id=work.bundle_id)

    def _apply_if_any(self, event: Event | None) -> None:
        if event is not None:
            self._apply(event)

    def _apply(self, event: Event) -> None:
        before = self.state
        actions = self._session.take(event)
        if self.state != before:
            self._summing.leave(before)
            self._sending.stop()
        for action in actions:
            self._do(action)
        self._look_for_work()

    def _look_for_work(self) -> None:
        if self.state.phase == "idle":
            openings = (one for one in self._announcements.as_events() if self._session.would_move(one))
            self._apply_if_any(next(openings, None))

    def _do(self, action: Action) -> None:
        match action:
            case SendJoin(job=job):
                self._sending.begin(action, spread_s=self._announcements.spread_s(job))
            case SendUpdate():
                self._sending.begin(action)
            case SendStep():
                self._summing.wait()
                self._sending.begin(action)
            case TakeStep(step=name):
                if self._runs.running is None:
                    self._apply_if_any(self._summing.take(name))
            case StartTraining(job=job):
                if self._runs.running is None:
                    self._train(job)
            case StopTraining():
                self._runs.stop()

    def _train(self, job: Job) -> None:
        if self._conduct is None or self._conduct.may_train:  # otherwise ``_keep_rules`` tries again
            self._training.begin(job)

    def _keep_rules(self) -> None:
        if self._conduct is None:
            return
        is_training = self.state.phase == "training"
        if self._conduct.turn(self._runs.running if is_training else None):
            self._runs.stop()
        if is_training and self._runs.running is None and self.state.job is not None:
            self._train(self.state.job)

    def _renew_if_due(self) -> None:
        renew = None if self._renewal is None else self._renewal.due()
        if renew is not None:
            self._uplink.say(renew)

    def _fetch_bundles(self) -> None:
        if self._fetch is None or not self._may_send():
            return
        needed, job = self._announcements.needed_bundles(), self.state.job
        if self._fetch.turn(needed | ({job.bundle_id} if job else set()), self._bundles):
            self._look_for_work()

    def _ask_for_latest(self) -> None:
        if self._latest is not None and self._may_send():
            busy_with = None if self.state.job is None else self.state.job.task
            self._latest.turn(self._clock(), self._announcements.of_bundles_here(), busy_with=busy_with)

    def _may_send(self) -> bool:
        return self._conduct is None or self._conduct.may_send
