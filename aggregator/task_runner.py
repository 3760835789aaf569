"""One task's life: opens rounds, hands out work, takes updates, folds, finishes; resumes from the store alone.

Laws: the store is the truth and this object a cache of it, so that dropping the object at any point loses nothing; a
change is durable before anybody hears of it; the updates of a round are fixed (``closing``) before they are folded.
Works on one thread. Does not decide what a message is worth (``core.intake``) and does not send (the caller publishes).
Memory: O(adapter): the broadcast payload, and during a fold two float64 vectors and one update.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal

from aggregator.core.records import Change, RoundRecord
from aggregator.core.rounds import FINAL_STATES, SUM_STATES, RoundEvent, RoundProgress, due_event
from aggregator.handover import Handover
from aggregator.privacy import MAX_SAMPLED, check_promise, task_privacy
from aggregator.round_fold import fold_round, log_fold
from aggregator.round_members import RoundMembers
from aggregator.sum_round import SumRound
from aggregator.task_control import TaskControl
from aggregator.task_versions import TaskVersions
from aggregator.task_view import task_view
from host.logs import event
from protocol.errors import RemoteProtocolError
from protocol.messages import Announce

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aggregator.conversation import Outgoing
    from aggregator.core.intake import Admitted, Stepped, Taken, TaskView
    from aggregator.core.privacy.sampling import PoissonSampling
    from aggregator.core.records import CommandRecord, TaskRecord, TaskState, UpdateRecord
    from aggregator.task_setup import TaskSetup, World

__all__ = ["GRACE_S", "TaskRunner"]

# After a restart or a lost broker a round stays open at least so long, so that devices that were at work are not
# punished: an agent's longest wait before it tries to reconnect is 30 s.
GRACE_S: Final = 45.0


class TaskRunner:
    """Runs one task; ``resume`` first."""

    def __init__(self, setup: TaskSetup, world: World) -> None:
        """Prepare; nothing is read or written before ``resume``."""
        self.setup, self._world = setup, world
        self.task = setup.settings.id
        self.versions = TaskVersions(setup, world)
        self._handover = Handover(setup=setup, world=world, versions=self.versions)
        self._control = TaskControl(setup.settings, world, keys=setup.keys)
        self._state: TaskState = "open"
        self._round: RoundRecord
        self._members: RoundMembers
        self._outbox: list[Outgoing] = []  # besides announcements and answers
        self._deadline_s = 0.0  # monotonic
        self._n_accepted = 0
        self._sum: SumRound | None = None  # of a round whose vectors go into a secure sum, until its fold
        self._announcement: Outgoing
        self._privacy = task_privacy(setup, world)

    # -- life --------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Begin the task, or go on where the store says it is.

        Raises:
            ConfigError: the store knows this task with another bundle or strategy, or its privacy budget does not
                pay for a round (the user's fault).
            StorageError: the state cannot be read or written.
        """
        if self._privacy is not None:
            self._privacy.resume()
        known = self._world.store.task(self.task)
        if known is None:
            self._begin()
        else:
            self._check_same(known)
            self._fit_rounds(known)
        self._load()
        if self._is_of_another_privacy():
            self._abandon("withdrawn")
        if self._round.state not in FINAL_STATES:
            self.extend_deadline()

    def extend_deadline(self) -> None:
        """Give devices that could not reach us at least a grace to answer."""
        grace_s, now_s = min(GRACE_S, self.setup.settings.deadline_s), self._world.clock.monotonic_s()
        self._deadline_s = max(self._deadline_s, now_s + grace_s)
        self._members.attendance.restart(now_s)

    def advance(self, *, is_reachable: bool) -> bool:
        """Do what is due: close, fold, abandon; return whether anything changed, so that it is announced.

        ``is_reachable`` is whether devices can reach us at all: while the broker is away no deadline passes.
        """
        changed = False
        self._outbox += [
            self._hand_work(one, n_bytes=n_bytes)
            for one, n_bytes in self._members.chosen(now_s=self._world.clock.monotonic_s())
        ]
        while (due := self._due(is_reachable=is_reachable)) is not None:
            changed = True
            match due:
                case "folded":
                    self._fold()
                case "deadline-with-too-few" | "withdrawn":
                    self._abandon(due)
                case _ if self._sum is not None:
                    self._close_sum_step()
                case _:
                    entry = None if self._privacy is None else self._privacy.entry(self._round.round)
                    self._world.store.start_closing(self.task, self._round.round, due, entry=entry)
                    event("round-closing", task=self.task, round=self._round.round, why=due)
                    self._round = dataclasses.replace(self._round, state="closing")
        return self._go_on() or changed

    def obey(self, command: CommandRecord) -> str | None:
        """Carry out what the operator asked for; return why not, or None."""
        latest = self._round
        updates = self._world.store.updates(self.task, latest.round) if latest.state == "open" else ()
        why = self._control.obey(command)
        if why is None:
            self._load()
            if self._round.round == latest.round and self._round.state == "abandoned":
                self._remove(updates)
                self._forget_sum(latest.round, keep_state=False)
        return why

    @property
    def is_finished(self) -> bool:
        """Whether no round will open any more: all were folded, or the task was stopped."""
        return self._state in {"finished", "stopped"}

    @property
    def is_settled(self) -> bool:
        """Whether it is finished and no version that was measured waits for its verdict."""
        return self.is_finished and not self._control.can_judge()

    @property
    def is_closing(self) -> bool:
        """Whether a round is being folded."""
        return self._round.state == "closing"

    @property
    def seconds_left(self) -> float:
        """Until the open round's deadline; 0 or more."""
        return max(0.0, self._deadline_s - self._world.clock.monotonic_s())

    def say_again(self) -> None:
        """Send again what a secure sum's devices may not have heard while we were away."""
        if self._sum is not None:
            self._outbox += self._sum.unanswered()

    @property
    def announcement(self) -> Outgoing:
        """What everyone should know now."""
        return self._announcement

    def view(self) -> TaskView:
        """Return what the intake rules must know."""
        n_places = self._members.n_places if self._sampling is None else MAX_SAMPLED
        return task_view(self.setup, self._round, state=self._state, n_places=n_places, sampling=self._sampling)

    @property
    def _sampling(self) -> PoissonSampling | None:
        return None if self._privacy is None else self._privacy.sampling

    # -- what devices asked for --------------------------------------------------------------------------------------

    def outgoing(self) -> list[Outgoing]:
        """Return, once, what is to be sent besides announcements and answers."""
        sent, self._outbox = self._outbox, []
        return sent

    def admit(self, admitted: Admitted, *, n_bytes: int) -> Outgoing | None:
        """Hand the device its work or, while the round gathers, let it wait; return what to tell whom, if anything."""
        if not (admitted.is_first and self._members.is_gathering):
            return self._hand_work(admitted, n_bytes=n_bytes)
        out = self._members.offer(admitted, n_bytes=n_bytes, now_s=self._world.clock.monotonic_s())
        if out is None:
            return None
        event("join-declined", reason="not-selected", device=out.device, task=self.task, round=out.join.round)
        return self._world.conversation.decline(out.device, out.join, "not-selected")

    def _hand_work(self, admitted: Admitted, *, n_bytes: int) -> Outgoing:
        """Keep that the device takes part and return its work."""
        heard = self._announcement.n_bytes
        work = self._handover.hand_work(
            admitted, self._round, seconds_left=self.seconds_left, n_bytes=n_bytes, heard_bytes=heard
        )
        self._members.attendance.join(admitted.device, self._world.clock.monotonic_s())
        return work

    def take(self, taken: Taken, *, n_bytes: int) -> Outgoing:
        """Keep the update durably and return its receipt."""
        receipt = self._handover.take(taken, n_bytes=n_bytes)
        self._n_accepted += 1
        self._members.attendance.answer(taken.device, self._world.clock.monotonic_s())
        return receipt

    def take_step(self, stepped: Stepped, *, n_bytes: int) -> None:
        """Keep a message of this round's secure sum durably; its receipt is among the ``outgoing``.

        Raises:
            RemoteProtocolError: refused; nothing has changed (the peer's fault).
        """
        if self._sum is None:
            raise RemoteProtocolError(f"the sum of round {stepped.step.round} has ended", reason="late")
        self._outbox += self._sum.take(stepped, n_bytes=n_bytes)
        if stepped.step.step == "adverts":
            self._members.attendance.answer(stepped.device, self._world.clock.monotonic_s())

    # -- how ---------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._privacy is not None and not self._privacy.can_open:
            raise self._privacy.no_budget()
        self.versions.begin(self.versions.new_round(1, version=0))

    def _check_same(self, known: TaskRecord) -> None:
        self.versions.check_same(known)
        entries, rounds = self._world.store.ledger(self.task), self._world.store.rounds(self.task)
        told = [one.round for one in rounds if one.state in {"closing", "folded"}]
        check_promise(self.task, told, entries, is_private=self._privacy is not None)

    def _fit_rounds(self, known: TaskRecord) -> None:
        store, latest = self._world.store, self._world.store.latest_round(self.task)
        if latest.state == "closing":
            return  # its fold is paid for and decides
        is_paid = latest.state not in FINAL_STATES and self._privacy is not None and self._privacy.is_paid(latest.round)
        may_go_on = self.versions.n_folded < self.setup.settings.rounds and (is_paid or self._has_budget())
        if known.state == "finished" and may_go_on:
            self._set_state("open")
        elif known.state == "open" and not may_go_on and latest.state in SUM_STATES.values():
            store.finish(self.task, latest.round, unix_s=self._world.clock.unix_s())
            self._forget_sum(latest.round, keep_state=False)

    def _has_budget(self) -> bool:
        if self._privacy is None or self._privacy.can_open:
            return True
        event("privacy-budget-spent", task=self.task)
        return False

    def _is_of_another_privacy(self) -> bool:
        """Whether the round was begun under other privacy settings: what was taken then cannot go into this one."""
        if self._round.state in FINAL_STATES or self._round.state == "closing":
            return False
        paid = self._privacy is None or self._privacy.can_open or self._privacy.is_paid(self._round.round)
        if not paid:
            return True  # of a paused task, whose budget was lowered
        if self._sum is not None:
            return self._n_accepted > 0 or not self._sum.is_as_configured
        parts = self._world.sums
        return parts is not None and parts.store.state(self.task, self._round.round) is not None

    def _set_state(self, state: TaskState) -> None:
        now = self._world.clock.unix_s()
        self._world.lifecycle.apply(Change(task=self.task, state=state, unix_s=now))

    def _go_on(self) -> bool:
        """Between two rounds: let the gate judge, and open the next round when it may; return whether anything did."""
        if self._round.state not in FINAL_STATES:
            return False
        changed = self._control.pass_verdict()
        if self._state == "open" and self._control.may_open_round():
            changed = True
            if self.versions.n_folded >= self.setup.settings.rounds or not self._has_budget():
                self._set_state("finished")
            else:
                newest = self._world.store.latest_version(self.task).version
                self._world.store.open_round(self.versions.new_round(self._round.round + 1, version=newest))
        if changed:
            self._load()
        return changed

    def _load(self) -> None:
        store = self._world.store
        record = store.task(self.task)
        self._state = "open" if record is None else record.state
        self._round = store.latest_round(self.task)
        if not self._world.keep_folded_updates:  # kept updates need their keys
            self.setup.keys.end_before(self._round.round)
        self._n_accepted = len(store.updates(self.task, self._round.round))
        now_s = self._world.clock.monotonic_s()
        self._members = RoundMembers(self.setup.settings, store, self._round, now_s=now_s, tags=self.setup.tags)
        is_summing = self.setup.sum_terms is not None and self._round.state in SUM_STATES.values()
        self._sum = SumRound(self.setup, self._world, self._round) if is_summing else None
        # A machine without a battery clock may wake up in 1970: no wait is longer than the settings say.
        settings = self.setup.settings
        longest_s = max(settings.deadline_s, settings.privacy.secure_sum.step_deadline_s)
        left_s = min(longest_s, self._round.deadline_unix_s - self._world.clock.unix_s())
        self._deadline_s = now_s + left_s
        self._announcement = self._world.conversation.announce(self._announce())
        if self._round.state == "open":
            event("round-opened", task=self.task, round=self._round.round, version=self._round.version)

    def _announce(self) -> Announce:
        version, state = self._round.version, self._announced_state()
        if state == "finished":
            version, _ = self._control.published(opened_on=version)
        return Announce(
            task=self.task,
            state=state,
            round=self._round.round,
            version=version,
            bundle_id=self.setup.bundle.id,
            spread_s=self.setup.settings.selection.spread_s or None,
            seal_adapter=self.setup.settings.privacy.seal_adapter or None,
        )

    def _announced_state(self) -> Literal["open", "paused", "finished"]:
        if self.is_finished:
            return "finished"
        return "paused" if self._round.state in FINAL_STATES else "open"

    def _due(self, *, is_reachable: bool) -> RoundEvent | None:
        if self._round.state in FINAL_STATES:
            return None
        settings, attendance = self.setup.settings, self._members.attendance
        is_past_deadline = is_reachable and self.seconds_left <= 0
        if self._sum is not None and self._round.state != "open":
            return self._sum.due_event(is_past_deadline=is_past_deadline)
        # A sampled round tells nothing by how many came: it closes at its deadline and is folded whatever came.
        is_sampled = self._sampling is not None
        progress = RoundProgress(
            state=self._round.state,
            n_accepted=self._n_accepted if self._sum is None else self._sum.n_answered,
            cohort=MAX_SAMPLED if is_sampled else settings.cohort,
            min_cohort=0 if is_sampled else settings.min_cohort,
            n_waiting=attendance.n_waiting,
            is_draining=self._state == "paused" and not is_sampled,
            quiet_s=attendance.quiet_s(self._world.clock.monotonic_s()) if is_reachable else 0.0,
            patience_s=self._members.patience_s,
        )
        return due_event(progress, is_past_deadline=is_past_deadline)

    def _fold(self) -> None:
        store, round_ = self._world.store, self._round
        before = self.versions.load(self.versions.newest)
        folded = fold_round(self.setup, self._world, round_, before, privacy=self._privacy)
        number = round_.version + 1
        version = self.versions.record(number, folded.state, round_=round_.round, n_updates=folded.n_updates)
        is_last = self.versions.n_folded + 1 >= self.setup.settings.rounds or not self._has_budget()
        goes_on = self._state == "open" and self.setup.settings.gate is None and not is_last
        store.fold(
            self.task,
            round_.round,
            version=version,
            next_round=self.versions.new_round(round_.round + 1, version=version.version) if goes_on else None,
            is_last=is_last,
            private=folded.private,
        )
        log_fold(self._world, round_, version, folded.state)
        self._forget(folded.updates)
        self._load()
        if self.is_finished:
            event("task-finished", task=self.task, version=version.version)

    def _close_sum_step(self) -> None:
        """End the present step of the secure sum, or the round with it."""
        step_s, summing = self.setup.settings.privacy.secure_sum.step_deadline_s, self._sum
        outgoing = None
        if self._privacy is not None and self._round.state == "open":
            self._privacy.pay(self._round.round)
        if summing is not None:
            outgoing = summing.close_step(deadline_unix_s=self._world.clock.unix_s() + step_s)
        if outgoing is None:
            return self._abandon("deadline-with-too-few")
        self._load()
        self._outbox += outgoing
        return None

    def _abandon(self, why: RoundEvent) -> None:
        store, round_ = self._world.store, self._round
        updates = store.updates(self.task, round_.round)
        goes_on = self._state == "open" and self._has_budget()  # a sum that was masked is paid
        next_round = self.versions.new_round(round_.round + 1, version=round_.version) if goes_on else None
        store.abandon(self.task, round_.round, why, next_round=next_round, unix_s=self._world.clock.unix_s())
        event("round-abandoned", task=self.task, round=round_.round, n_updates=len(updates))
        self._remove(updates)
        self._forget_sum(round_.round, keep_state=False)
        self._load()

    def _forget_sum(self, round_: int, *, keep_state: bool) -> None:
        if self._world.sums is not None:
            self._world.sums.store.forget(self.task, round_, keep_state=keep_state)

    def _forget(self, updates: list[UpdateRecord]) -> None:
        self._forget_sum(self._round.round, keep_state=self._world.keep_folded_updates)
        if not self._world.keep_folded_updates:
            self._remove(updates)

    def _remove(self, updates: Iterable[UpdateRecord]) -> None:
        for update in updates:
            self._world.blobs.remove(update.blob)
