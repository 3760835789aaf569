"""The service's event pump: one thread takes one event at a time, decides, makes it durable, answers, acknowledges.

Laws: a message is acknowledged to the broker only after what it caused is durable or it was refused, so a kill at any
point means at most that it comes again, and everything here may come again; storage that went away is waited for,
and what else cannot be made durable ends the process (``StorageError``), since the next start continues from the last
good state. No asyncio: the work between two
events is one signature, one decryption and one small transaction; folds and evaluations are rare or elsewhere.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aggregator.away import AwayError
from aggregator.conversation import Outgoing
from aggregator.core.intake import (
    Admitted,
    Declined,
    Fetching,
    IntakeContext,
    Refused,
    Renewing,
    Stepped,
    Taken,
    TakenBefore,
    Uploading,
    decide,
)
from aggregator.core.records import Traffic
from aggregator.latest import LatestDesk
from aggregator.pulse import Pulse
from aggregator.store_ledger import StoreLedger
from aggregator.task_view import terms_of
from aggregator.uploads import UploadDesk, Whole
from host.link import LinkDown, LinkUp, Received
from host.logs import event
from protocol.bounds import ENVELOPE_OVERHEAD_BYTES
from protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from aggregator.core.intake import Decision, Devices, TaskView
    from aggregator.core.staging import Staged
    from aggregator.evaluations import Evaluations
    from aggregator.issuance import ClaimDesk, Issuance
    from aggregator.outage import Outage
    from aggregator.ports import Supervisor
    from aggregator.retention import Retention
    from aggregator.revocations import Revocations
    from aggregator.runner import Runner
    from aggregator.staged_desk import StagedDesk
    from aggregator.steering import Steering
    from aggregator.task_setup import World
    from aggregator.trust_upkeep import TrustUpkeep
    from host.link import Link, LinkEvent
    from protocol.messages import Join, Update
    from protocol.reasons import Reason
    from protocol.sum_round import SumStep
    from protocol.uploads import Upload

__all__ = ["TICK_S", "Parts", "Service", "Trust"]

# How long the pump sleeps at most: so often it looks at deadlines, evaluations, the broker and signals.
TICK_S: Final = 0.25
_MAX_HANDED: Final = 1000  # uploads in chunks that workers have, remembered to be tidied up


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What a fleet with an authority has beside the rounds."""

    issuance: Issuance
    desk: ClaimDesk
    revocations: Revocations
    upkeep: TrustUpkeep


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the service is made of."""

    world: World
    link: Link
    devices: Devices
    runners: Sequence[Runner]
    evaluations: Evaluations
    supervisors: Sequence[Supervisor] = ()
    trust: Trust | None = None
    steering: Steering | None = None
    retention: Retention | None = None
    outage: Outage | None = None
    uploads: UploadDesk | None = None
    staged: StagedDesk | None = None  # where ingest workers take updates in
    pulse: Pulse = field(default_factory=Pulse)


class Service:
    """Runs the tasks; ``start`` first, then ``run``, or ``step`` by step."""

    def __init__(self, parts: Parts) -> None:
        """Prepare; nothing is sent or stored before ``start``."""
        self._parts, self._world, self._link = parts, parts.world, parts.link
        self._runners = {runner.task: runner for runner in parts.runners}
        self._is_up = False
        self._latest = LatestDesk(parts.world)
        self._unhandled: LinkEvent | None = None
        self._handed: set[tuple[str, bytes]] = set()  # wholes of chunks that a worker was given
        self._intake = self._context()

    def _context(self) -> IntakeContext:
        sizes = (runner.setup.max_message_bytes for runner in self._runners.values())
        return IntakeContext(
            fleet=self._world.conversation.fleet,
            devices=self._parts.devices,
            ledger=StoreLedger(self._world.store, self._view),
            max_bytes=max([ENVELOPE_OVERHEAD_BYTES, *sizes]),
        )

    def _view(self, task: str) -> TaskView | None:
        runner = self._runners.get(task)
        return None if runner is None else runner.view()

    def start(self) -> None:
        """Begin or resume every task."""
        for runner in self._runners.values():
            runner.resume()
            self._tidy(runner)
        self._tell_workers()
        self._advance()

    def _tell_workers(self) -> None:
        if self._parts.staged is not None:
            self._parts.staged.set_terms({task: terms_of(runner.setup) for task, runner in self._runners.items()})

    def _resume(self) -> None:
        """Go on where the store says: what these objects knew may be older or newer."""
        for runner in self._runners.values():
            runner.resume()
            self._publish(runner.announcement)

    def run(self, stop: threading.Event, *, exit_when_done: bool = False) -> None:
        """Take events until ``stop`` is set or, if asked for, all is done; storage that went away is waited for."""
        while not stop.is_set():
            try:
                if exit_when_done and self.is_done:
                    return
                self.step(TICK_S)
            except AwayError as error:
                outage = self._parts.outage
                if outage is None or not outage.wait(error, stop, resume=self._resume):
                    raise

    def step(self, timeout_s: float) -> bool:
        """Take at most one event from the link, then do what is due; return whether there was an event."""
        # An event in whose midst the storage went away comes again here: it was not acknowledged, and all that it
        # caused may be there or not.
        if self._parts.staged is not None:
            timeout_s = min(timeout_s, self._parts.staged.wait_s(self._world.clock.monotonic_s()))
        link_event = self._unhandled = self._unhandled or self._link.receive(timeout_s)
        match link_event:
            case Received():
                self._receive(link_event)
            case LinkUp():
                self._link_up(link_event)
            case LinkDown(why=why):
                self._is_up = False
                event("link-down", level=logging.WARNING, why=why)
        self._unhandled = None
        now_s = self._world.clock.monotonic_s()
        n_staged = self._take_staged(now_s)
        for supervisor in self._parts.supervisors:
            supervisor.tick(now_s)
        if self._parts.trust is not None:
            self._parts.trust.upkeep.tick(now_s)
            self._parts.trust.revocations.tick(now_s)
            self._parts.trust.desk.tick()
        if self._parts.uploads is not None:
            self._parts.uploads.tick(now_s)
        self._advance()
        self._steer(now_s)
        self._parts.evaluations.tick()
        self._parts.pulse.is_link_up, self._parts.pulse.beat_s = self._is_up, now_s
        return link_event is not None or n_staged > 0

    @property
    def is_up(self) -> bool:
        """Whether the broker is reached."""
        return self._is_up

    @property
    def is_done(self) -> bool:
        """Whether every task is finished, announced and measured."""
        all_finished = all(runner.is_settled for runner in self._runners.values())
        return all_finished and self._is_up and self._parts.evaluations.is_idle

    def close(self) -> None:
        """End the evaluation that runs and leave the broker."""
        self._parts.evaluations.close()
        if self._parts.trust is not None:
            self._parts.trust.desk.close()
        self._link.close()

    # -- events ------------------------------------------------------------------------------------------------------

    def _link_up(self, up: LinkUp) -> None:
        self._is_up = True
        event("link-up", mqtt=up.mqtt)
        for runner in self._runners.values():
            runner.extend_deadline()
            self._publish(runner.announcement)
            runner.say_again()

    def _receive(self, message: Received) -> None:
        n_bytes = len(message.payload) + len(message.topic)
        decision = decide(message.topic, message.payload, self._intake)
        answer = self._carry_out(decision, n_bytes)
        if answer is not None:
            self._publish(answer)
        self._publish_outgoing()
        self._link.acknowledge(message)

    def _take_staged(self, now_s: float) -> int:
        """Carry out what is due of what ingest workers staged; return how many they were."""
        n_staged = 0
        if self._parts.staged is None:
            return n_staged
        for staged, decision in self._parts.staged.decisions(self._intake, now_s):
            answer = self._carry_out(decision, staged.n_bytes)
            if answer is not None:
                self._publish(answer)
            if (staged.device, staged.update_id) in self._handed and self._parts.uploads is not None:
                self._handed.discard((staged.device, staged.update_id))
                self._parts.uploads.done(staged.device)
            n_staged += 1
            self._advance()  # a round that is full closes before the next is decided on
        return n_staged

    def _carry_out(self, decision: Decision, n_bytes: int) -> Outgoing | None:  # noqa: PLR0911 - one for each decision
        match decision:
            case Admitted(join=join):
                return self._runners[join.task].admit(decision, n_bytes=n_bytes)
            case Taken(update=update):
                return self._runners[update.task].take(decision, n_bytes=n_bytes)
            case Declined(device=device, join=join, reason=reason):
                answer = self._world.conversation.decline(device, join, reason)
                self._count(reason, device, join, n_bytes, answer)
                event("join-declined", reason=reason, device=device, task=join.task, round=join.round)
                return answer
            case TakenBefore(device=device, update=update):
                answer = self._world.conversation.accepted(device, update)
                self._refuse("replayed", device, update, n_bytes, answer)
                return answer
            case Renewing(device=device):
                return self._renew(decision, n_bytes)
            case Stepped():
                return self._take_step(decision, n_bytes)
            case Uploading() | Fetching():
                return self._ask_desk(decision, n_bytes)
            case Refused(reason=reason, device=str(device), update=update) if update is not None:
                answer = self._world.conversation.refused(device, update, reason)
                self._refuse(reason, device, update, n_bytes, answer, detail=decision.detail)
                return answer
            case Refused(reason=reason, device=claimed):
                # Unverified: counted, never answered.
                self._world.store.refuse(reason)
                device = (claimed or "")[:64]
                event("update-refused", reason=reason, device=device, task=None, round=None, detail=decision.detail)
                return None

    def _ask_desk(self, decision: Uploading | Fetching, n_bytes: int) -> Outgoing | None:
        desk = self._parts.uploads
        if isinstance(decision, Fetching):
            said: Outgoing | Whole | Decision = self._latest.answer(decision, self._runners)
        elif desk is None:
            said = Refused(reason="malformed", detail="no uploads here", device=decision.device)
        else:
            said = desk.take(decision, self._intake, n_bytes=n_bytes)
        match said:
            case Outgoing():
                return said
            case Whole():
                return self._take_whole(said)
            case _:
                return self._carry_out(said, n_bytes)

    def _take_whole(self, whole: Whole) -> Outgoing | None:
        if self._hand_on(whole):
            return None
        decision = decide(whole.topic, whole.payload, self._intake)
        if isinstance(decision, Refused) and decision.update is None:  # its manifest said who asks, so it is answered
            decision = dataclasses.replace(decision, update=whole.upload)
        answer = self._carry_out(decision, len(whole.payload) + len(whole.topic))
        if self._parts.uploads is not None:
            self._parts.uploads.done(whole.device)
        return answer

    def _hand_on(self, whole: Whole) -> bool:
        """Give a whole update to an ingest worker, once; False if there is none, or it was no use."""
        key = whole.device, whole.upload.update_id
        if self._parts.staged is None or whole.upload.is_step or key in self._handed:
            self._handed.discard(key)
            return False
        if len(self._handed) >= _MAX_HANDED or not self._link.publish(whole.topic, whole.payload):
            return False
        self._handed.add(key)
        return True

    def _take_step(self, stepped: Stepped, n_bytes: int) -> Outgoing | None:
        try:
            self._runners[stepped.step.task].take_step(stepped, n_bytes=n_bytes)
        except RemoteProtocolError as error:
            reason: Reason = error.reason  # type: ignore[assignment]  # a sum's own reasons are among them
            answer = self._world.conversation.refused(stepped.device, stepped.step, reason)
            self._refuse(reason, stepped.device, stepped.step, n_bytes, answer, detail=str(error))
            return answer
        return None

    def _renew(self, renewing: Renewing, n_bytes: int) -> Outgoing | None:
        try:
            certificate = _issuance(self._parts).renew(renewing.device, renewing.renew)
        except RemoteProtocolError as error:
            self._world.store.refuse("bad-renewal")
            event("renewal-refused", device=renewing.device, bytes=n_bytes, detail=str(error))
            return None
        event("certificate-renewed", device=renewing.device)
        return self._world.conversation.certificate(renewing.device, certificate)

    def _refuse(
        self,
        reason: Reason,
        device: str,
        update: Update | Staged | SumStep | Upload,
        n_bytes: int,
        answer: Outgoing,
        *,
        detail: str = "",
    ) -> None:
        self._count(reason, device, update, n_bytes, answer)
        event("update-refused", reason=reason, device=device, task=update.task, round=update.round, detail=detail)

    def _count(
        self,
        reason: Reason,
        device: str,
        body: Join | Update | Staged | SumStep | Upload,
        n_bytes: int,
        answer: Outgoing,
    ) -> None:
        task = body.task if body.task in self._runners else ""  # names of strangers must not make the table grow
        traffic = Traffic(up_bytes=n_bytes, down_bytes=answer.n_bytes)
        self._world.store.refuse(reason, task=task, round_=body.round, device=device, traffic=traffic)

    def _advance(self) -> None:
        for runner in self._runners.values():
            if runner.advance(is_reachable=self._is_up):
                self._publish(runner.announcement)
                self._tidy(runner)
            self._parts.evaluations.add_missing(runner)
        self._publish_outgoing()

    def _tidy(self, runner: Runner) -> None:
        if self._parts.retention is not None and not runner.is_closing:
            self._parts.retention.tidy(runner.setup.settings)

    def _publish_outgoing(self) -> None:
        for runner in self._runners.values():
            for message in runner.outgoing():
                self._publish(message)

    def _steer(self, now_s: float) -> None:
        if self._parts.steering is not None:
            for runner in self._parts.steering.tick(now_s, self._runners, add=self._add):
                self._publish(runner.announcement)

    def _add(self, runner: Runner) -> None:
        runner.resume()
        self._runners[runner.task] = runner
        self._intake = self._context()
        self._tell_workers()
        self._publish(runner.announcement)

    def _publish(self, message: Outgoing) -> None:
        # If the link is down the message is dropped: announcements are sent again at LinkUp, and devices ask again.
        if not self._link.publish(message.topic, message.payload, retain=message.retain) and self._is_up:
            event("publish-failed", level=logging.WARNING, topic=message.topic, bytes=message.n_bytes)


def _issuance(parts: Parts) -> Issuance:
    if parts.trust is None:
        raise RemoteProtocolError("this fleet has no authority", reason="bad-renewal")
    return parts.trust.issuance
