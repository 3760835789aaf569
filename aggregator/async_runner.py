"""One asynchronous task's life: hands out work when a slot is free, takes updates of any welcome age, folds buffers.

Laws: those of ``task_runner``: the store is the truth and this object a cache of it; a change is durable before anybody
hears of it; the updates of a buffer are fixed (``closing``) before they are folded. An update goes into the buffer that
is open when it comes. With a gate a fold is a candidate until its verdict: devices are given the newest promoted
version, and an open buffer on an older one is carried over, whatever was killed in between. Who waits for a slot is not
kept: after a restart devices call again by themselves. Works on one thread. Does not decide what a message is worth
(``core.intake``) and does not send (the caller publishes).
Memory: O(adapter) and O(devices that work or wait).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal

from aggregator.async_settings import async_of
from aggregator.core.buffer import (
    BufferProgress,
    Slots,
    WaitingRoom,
    due_buffer_event,
)
from aggregator.core.records import Change, RoundRecord
from aggregator.core.rounds import FINAL_STATES
from aggregator.handover import Handover
from aggregator.round_fold import fold_buffer, log_fold
from aggregator.task_control import TaskControl
from aggregator.task_runner import GRACE_S
from aggregator.task_versions import TaskVersions
from aggregator.task_view import task_view, welcome_works
from host.logs import event
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import Announce

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aggregator.conversation import Outgoing
    from aggregator.core.intake import Admitted, Stepped, Taken, TaskView
    from aggregator.core.records import CommandRecord, TaskRecord, TaskState, UpdateRecord
    from aggregator.core.rounds import RoundEvent
    from aggregator.task_setup import TaskSetup, World

__all__ = ["AsyncRunner"]

_WAITING_PLACES: Final = 10  # for each that may work: enough that a free slot is filled at once, and bounded
_ANYBODY: Final = 2**31  # the intake bounds a round's devices; here slots do


class AsyncRunner:
    """Runs one asynchronous task; ``resume`` first."""

    def __init__(self, setup: TaskSetup, world: World) -> None:
        """Prepare; nothing is read or written before ``resume``."""
        settings = async_of(setup.settings)
        if settings is None or settings.concurrency is None:
            raise LocalProtocolError(f"task {setup.settings.id} is not asynchronous")
        self.setup, self._world, self._slot_s = setup, world, settings.slot_s
        self.task = setup.settings.id
        self.versions = TaskVersions(setup, world)
        self._concurrency = settings.concurrency
        self._handover = Handover(setup=setup, world=world, versions=self.versions)
        self._control = TaskControl(setup.settings, world, keys=setup.keys)
        self._state: TaskState = "open"
        self._buffer: RoundRecord
        self._works: dict[int, int] = {}  # round -> version, of work that is still welcome
        self._slots = Slots(self._concurrency, slot_s=self._slot_s, now_s=0.0)
        self._waiting: WaitingRoom[tuple[Admitted, int]] = WaitingRoom(_WAITING_PLACES * self._concurrency)
        self._waiting_for = 0  # the round that those who wait asked for
        self._n_buffered = 0
        self._published, self._has_candidate = 0, False
        self._rested: frozenset[str] = frozenset()  # while a candidate waits: who had work of this version before
        self._deadline_s = 0.0  # monotonic
        self._outbox: list[Outgoing] = []
        self._announcement: Outgoing

    # -- life --------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Begin the task, or go on where the store says it is.

        Raises:
            ConfigError: the store knows this task with another bundle, strategy or mode (the user's fault).
            StorageError: the state cannot be read or written.
        """
        known = self._world.store.task(self.task)
        if known is None:
            self.versions.begin(self.versions.new_round(1, version=0))
        else:
            self.versions.check_same(known)
            self._fit_rounds(known)
        self._load()
        now_s = self._world.clock.monotonic_s()
        working = self._world.store.at_work(self.task, since=min(self._works))
        self._slots = Slots(self._concurrency, slot_s=self._slot_s, working=working, now_s=now_s)
        if self._buffer.state not in FINAL_STATES:
            self.extend_deadline()

    def extend_deadline(self) -> None:
        """Give devices that could not reach us at least a grace, and those at work their whole time again."""
        grace_s, now_s = min(GRACE_S, self.setup.settings.deadline_s), self._world.clock.monotonic_s()
        self._deadline_s = max(self._deadline_s, now_s + grace_s)
        self._slots.restart(now_s)

    def advance(self, *, is_reachable: bool) -> bool:
        """Do what is due; return whether anything changed, so that it is announced.

        ``is_reachable`` is whether devices can reach us at all: while the broker is away no time passes for them.
        """
        now_s, changed = self._world.clock.monotonic_s(), False
        if is_reachable:
            for device in self._slots.expire(now_s):
                event("slot-given-back", task=self.task, device=device, slot_s=self._slot_s)
        while (due := self._due(is_past_deadline=is_reachable and now_s >= self._deadline_s)) is not None:
            changed = True
            self._carry_out(due)
        changed = self._go_on() or changed
        if is_reachable:
            self._fill_slots(now_s)
        return changed

    def obey(self, command: CommandRecord) -> str | None:
        """Carry out what the operator asked for; return why not, or None."""
        latest = self._buffer
        within = self._world.store.buffered(self.task, latest.round) if latest.state == "open" else ()
        why = self._control.obey(command)
        if why is None:
            self._load()
            if self._buffer.round == latest.round and self._buffer.state == "abandoned":
                self._remove(one.update for one in within)
        return why

    @property
    def is_finished(self) -> bool:
        """Whether no buffer will open any more: all were folded, or the task was stopped."""
        return self._state in {"finished", "stopped"}

    @property
    def is_settled(self) -> bool:
        """Whether it is finished and no version that was measured waits for its verdict."""
        return self.is_finished and not self._control.can_judge()

    @property
    def is_closing(self) -> bool:
        """Whether a buffer is being folded."""
        return self._buffer.state == "closing"

    @property
    def announcement(self) -> Outgoing:
        """What everyone should know now."""
        return self._announcement

    def view(self) -> TaskView:
        """Return what the intake rules must know."""
        return task_view(self.setup, self._buffer, state=self._state, n_places=_ANYBODY, works=self._works)

    # -- what devices asked for --------------------------------------------------------------------------------------

    def outgoing(self) -> list[Outgoing]:
        """Return, once, what is to be sent besides announcements and answers."""
        sent, self._outbox = self._outbox, []
        return sent

    def say_again(self) -> None:
        """Say nothing: devices that wait for an answer ask again."""

    def admit(self, admitted: Admitted, *, n_bytes: int) -> Outgoing | None:
        """Hand the device its work; let it wait if no slot is free, or decline it if too many wait."""
        now_s, device = self._world.clock.monotonic_s(), admitted.device
        may_work = not admitted.is_first or self._may_work(device)
        if (may_work and self._slots.take(device, now_s)) or not admitted.is_first:
            return self._hand_work(admitted, n_bytes=n_bytes)
        if self._waiting.offer(device, (admitted, n_bytes), now_s):
            return None
        event("join-declined", reason="not-selected", device=device, task=self.task, round=admitted.join.round)
        return self._world.conversation.decline(device, admitted.join, "not-selected")

    def take(self, taken: Taken, *, n_bytes: int) -> Outgoing:
        """Keep the update durably in the open buffer and return its receipt."""
        receipt = self._handover.take(taken, n_bytes=n_bytes, buffer=self._buffer.round)
        self._n_buffered += 1
        self._slots.give_back(taken.device)
        return receipt

    def take_step(self, stepped: Stepped, *, n_bytes: int) -> None:  # noqa: ARG002 - the runner's signature
        """Refuse: an asynchronous task makes no secure sum.

        Raises:
            RemoteProtocolError: always (the peer's fault).
        """
        raise RemoteProtocolError(f"{stepped.step.task} makes no secure sum", reason="wrong-privacy")

    # -- how ---------------------------------------------------------------------------------------------------------

    def _fit_rounds(self, known: TaskRecord) -> None:
        """Reopen a finished task that was given more rounds, end one that was given fewer than it has."""
        store, is_through = self._world.store, self.versions.n_folded >= self.setup.settings.rounds
        latest = store.latest_round(self.task)
        if known.state == "finished" and not is_through:
            self._set_state("open")
        elif known.state == "open" and is_through and latest.state == "open":
            store.finish(self.task, latest.round, unix_s=self._world.clock.unix_s())

    def _load(self) -> None:
        store, settings = self._world.store, self.setup.settings
        record = store.task(self.task)
        self._state = "open" if record is None else record.state
        self._buffer = buffer = store.latest_round(self.task)
        self._works = welcome_works(self.setup, store, buffer)
        if not self._world.keep_folded_updates:  # kept updates need their keys
            self.setup.keys.end_before(min(self._works))
        self._n_buffered = len(store.buffered(self.task, buffer.round))
        self._published, self._has_candidate = self._control.published(opened_on=buffer.version)
        before = [one for one, on in self._works.items() if on == buffer.version and one < buffer.round]
        self._rested = frozenset(
            device for one in before if self._has_candidate for device in store.joined(self.task, one)
        )
        # A machine without a battery clock may wake up in 1970: no wait is longer than the settings say.
        left_s = min(settings.deadline_s, buffer.deadline_unix_s - self._world.clock.unix_s())
        self._deadline_s = self._world.clock.monotonic_s() + left_s
        self._announcement = self._world.conversation.announce(self._announce())
        if self._waiting_for != buffer.round:
            self._waiting_for = buffer.round
            self._waiting.clear()
        if buffer.state == "open":
            event("round-opened", task=self.task, round=buffer.round, version=buffer.version)

    def _announce(self) -> Announce:
        version, state = self._buffer.version, self._announced_state()
        if state == "finished":
            version = self._published
        return Announce(
            task=self.task,
            state=state,
            round=self._buffer.round,
            version=version,
            bundle_id=self.setup.bundle.id,
            spread_s=self.setup.settings.selection.spread_s or None,
            seal_adapter=self.setup.settings.privacy.seal_adapter or None,
            oldest_round=min(self._works),
        )

    def _announced_state(self) -> Literal["open", "paused", "finished"]:
        if self.is_finished:
            return "finished"
        return "paused" if self._buffer.state in FINAL_STATES else "open"

    def _due(self, *, is_past_deadline: bool) -> RoundEvent | None:
        settings = self.setup.settings
        if self._buffer.state in FINAL_STATES:
            return None
        progress = BufferProgress(
            state=self._buffer.state,
            n_waiting=self._n_buffered,
            size=settings.cohort,
            least=settings.min_cohort,
            n_working=self._slots.n_working,
            has_candidate=self._has_candidate,
            is_draining=self._state == "paused",
        )
        return due_buffer_event(progress, is_past_deadline=is_past_deadline)

    def _carry_out(self, due: RoundEvent) -> None:
        store, number = self._world.store, self._buffer.round
        match due:
            case "folded":
                self._fold()
            case "carried-over":
                following = self.versions.new_round(number + 1, version=self._published)
                store.carry_over(self.task, number, next_round=following, unix_s=self._world.clock.unix_s())
                event(
                    "buffer-carried-over",
                    task=self.task,
                    round=number,
                    version=self._published,
                    n_updates=self._n_buffered,
                )
                self._load()
            case "withdrawn":
                within = store.buffered(self.task, number)
                store.abandon(self.task, number, due, next_round=None, unix_s=self._world.clock.unix_s())
                event("round-abandoned", task=self.task, round=number, n_updates=len(within))
                self._remove(one.update for one in within)
                self._load()
            case _:
                store.start_closing(self.task, number, due)
                event("round-closing", task=self.task, round=number, why=due)
                self._buffer = dataclasses.replace(self._buffer, state="closing")

    def _fold(self) -> None:
        store, buffer = self._world.store, self._buffer
        folded = fold_buffer(self.setup, self._world, buffer, self.versions.state(buffer.version))
        number = self.versions.newest.version + 1  # not the buffer's plus 1: a refused candidate keeps its number
        version = self.versions.record(number, folded.state, round_=buffer.round, n_updates=folded.n_updates)
        is_last = self.versions.n_folded + 1 >= self.setup.settings.rounds
        goes_on = self._state == "open" and not is_last
        following_on = version.version if self.setup.settings.gate is None else buffer.version
        following = self.versions.new_round(buffer.round + 1, version=following_on) if goes_on else None
        store.fold(self.task, buffer.round, version=version, next_round=following, is_last=is_last)
        log_fold(self._world, buffer, version, folded.state, staleness=folded.staleness)
        if not self._world.keep_folded_updates:
            self._remove(folded.updates)
        self._load()
        if self.is_finished:
            event("task-finished", task=self.task, version=version.version)

    def _go_on(self) -> bool:
        """Let the gate judge, follow a promotion, and open a buffer where none is; return whether anything changed."""
        changed = self._has_candidate and self._control.pass_verdict(restores=False)
        if changed:
            self._load()
        if self._buffer.state == "open" and self._buffer.version < self._published:
            self._carry_out("carried-over")
            return True
        if self._buffer.state not in FINAL_STATES or self._state != "open":
            return changed
        if self.versions.n_folded >= self.setup.settings.rounds:
            self._set_state("finished")
        else:
            following = self.versions.new_round(self._buffer.round + 1, version=self._published)
            self._world.store.open_round(following)
        self._load()
        return True

    def _may_work(self, device: str) -> bool:
        """Whether a device is handed work: beside a candidate only until the buffer is full, and once on a version."""
        is_full = self._n_buffered >= self.setup.settings.cohort
        return not self._has_candidate or not (is_full or device in self._rested)

    def _fill_slots(self, now_s: float) -> None:
        """Hand work to who waits, as long as there are slots."""
        if self._buffer.state != "open" or self._state != "open":
            return
        while self._slots.has_room and (waited := self._waiting.next(now_s, self._may_work)) is not None:
            admitted, n_bytes = waited
            self._slots.take(admitted.device, now_s)
            self._outbox.append(self._hand_work(admitted, n_bytes=n_bytes))

    def _hand_work(self, admitted: Admitted, *, n_bytes: int) -> Outgoing:
        heard = self._announcement.n_bytes
        return self._handover.hand_work(
            admitted, self._buffer, seconds_left=self._slot_s, n_bytes=n_bytes, heard_bytes=heard
        )

    def _set_state(self, state: TaskState) -> None:
        now = self._world.clock.unix_s()
        self._world.lifecycle.apply(Change(task=self.task, state=state, unix_s=now))

    def _remove(self, updates: Iterable[UpdateRecord]) -> None:
        for update in updates:
            self._world.blobs.remove(update.blob)
