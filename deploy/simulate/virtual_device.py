"""One virtual device: what it answers to what it hears, and when. Rules only: no socket, no file, no clock.

    idle      an open round is announced          -> joining, or stays idle if it is not available
    joining   work                                -> training, or idle if it drops out
    joining   declined                            -> idle
    training  its time is over                    -> sending: a sealed update
    sending   receipt                             -> idle
    joining, training   a later round             -> joining, unless the work is still welcome (an asynchronous task)

Laws: chance is the device's own seeded generator, except for update ids, which must be new in every run; an update is
sealed once and sent again, the same bytes, until its receipt; joins are repeated until they are answered.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from deploy.simulate.deltas import POOL_SIZE
from deploy.simulate.journal import Entry
from protocol.messages import Announce, Decline, Join, Receipt, Update, UpdateContent, Work, pack_content
from protocol.sealing import binding, seal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploy.simulate.deltas import DeltaPool
    from deploy.simulate.profile import Group

__all__ = ["Surroundings", "VirtualDevice"]

_FIRST_WAIT_S: Final = 4.0  # before a message is sent again; a service answers in milliseconds
_MAX_WAIT_S: Final = 30.0
_MAX_DOUBLINGS: Final = 5
_Phase: TypeAlias = Literal["idle", "joining", "training", "sending"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all devices of a run share.

    Attributes:
        fleet: the fleet's name.
        pools: makes or finds the deltas of a task's work.
        write: takes a journal's entry.
        n_params: of each task that the devices know, by task; they ignore others.
    """

    fleet: str
    pools: Callable[[Work], DeltaPool]
    write: Callable[[Entry], None]
    n_params: Mapping[str, int]


class VirtualDevice:
    """A device; the caller sends what its methods return."""

    def __init__(self, name: str, group: Group, around: Surroundings, *, seed: int) -> None:
        """Begin idle."""
        self.name = name
        self.due_s: float | None = None  # when ``wake`` is to be called
        self._group, self._around = group, around
        self._random = random.Random(f"{seed}/{name}")  # noqa: S311 - behaviour, not secrets
        self._phase: _Phase = "idle"
        self._announced: Announce | None = None
        self._done: dict[str, int] = {}
        self._work: Work | None = None
        self._update: Update | None = None
        self._n_sent = 0

    @property
    def is_busy(self) -> bool:
        """Whether it has work or an update whose fate it does not know."""
        return self._phase in {"training", "sending"}

    def hear(self, body: Announce | Work | Decline | Receipt, now_s: float) -> None:
        """Take what the service said."""
        match body:
            case Announce() if body.task in self._around.n_params:
                self._hear_announce(body, now_s)
            case Work() if self._phase == "joining" and self._is_mine(body.task, body.round):
                self._begin_training(body, now_s)
            case Decline() if self._phase == "joining" and self._is_mine(body.task, body.round):
                self._end_round(now_s)
            case Receipt() if self._update is not None and body.update_id == self._update.update_id:
                self._note(body.status, self._update, reason=body.reason)
                self._end_round(now_s)
            case _:
                pass  # an answer that came twice, or too late

    def wake(self, now_s: float) -> Join | Update | None:
        """Return what to send now, if anything."""
        announced = self._announced
        match self._phase:
            case "joining" if announced is not None:
                self._again(now_s)
                return Join(task=announced.task, round=announced.round, bundle_id=announced.bundle_id)
            case "training" if self._work is not None:
                self._phase, self._n_sent = "sending", 0
                self._update = self._seal(self._work)
                self._work = None
        if self._phase != "sending":
            self.due_s = None
            return None
        self._again(now_s)
        return self._update

    def _hear_announce(self, body: Announce, now_s: float) -> None:
        last, self._announced = self._announced, body
        if self._phase == "sending":
            return  # its update comes first
        if self._phase != "idle" and last is not None and (last.task, last.round) == (body.task, body.round):
            return  # heard before
        is_open, oldest = body.state == "open", body.oldest_round
        if is_open and self._work is not None and oldest is not None and self._work.round >= oldest:
            return  # its work is still welcome
        self._phase, self._work, self.due_s = "idle", None, None
        if not is_open or body.round <= self._done.get(body.task, 0):
            return
        if self._random.random() >= self._group.available:
            self._done[body.task] = body.round
            return
        self._phase, self._n_sent = "joining", 0
        self.due_s = now_s + self._random.uniform(0, body.spread_s or 0.0)

    def _is_mine(self, task: str, round_: int) -> bool:
        return self._announced is not None and (self._announced.task, self._announced.round) == (task, round_)

    def _begin_training(self, work: Work, now_s: float) -> None:
        if self._random.random() < self._group.drop_out:
            return self._end_round(now_s)
        spread = self._random.uniform(-self._group.spread, self._group.spread)
        self._phase, self._work = "training", work
        self.due_s = now_s + self._group.train_s * (1 + spread)
        return None

    def _seal(self, work: Work) -> Update:
        delta, n_examples = self._random.randrange(POOL_SIZE), self._random.randint(*self._group.examples)
        update_id = os.urandom(16)
        info = binding(
            fleet=self._around.fleet,
            task=work.task,
            bundle_id=work.bundle_id,
            round_=work.round,
            version=work.version,
            device=self.name,
            update_id=update_id,
        )
        payload = self._around.pools(work).encoded(delta)
        content = UpdateContent(n_examples=n_examples, n_steps=1, loss=1.0, train_s=self._group.train_s, delta=payload)
        update = Update(
            task=work.task,
            round=work.round,
            version=work.version,
            bundle_id=work.bundle_id,
            update_id=update_id,
            sealed=seal(pack_content(content), public_raw=work.task_key, info=info),
        )
        self._note("sent", update, n_examples=n_examples, delta=delta)
        return update

    def _note(
        self,
        act: Literal["sent", "accepted", "refused"],
        update: Update,
        *,
        n_examples: int = 0,
        delta: int = 0,
        reason: str | None = None,
    ) -> None:
        self._around.write(
            Entry(
                act=act,
                device=self.name,
                task=update.task,
                round=update.round,
                update_id=update.update_id.hex(),
                version=update.version,
                n_examples=n_examples,
                delta=delta,
                reason=reason,
            )
        )

    def _end_round(self, now_s: float) -> None:
        ended = self._announced if self._update is None else self._update
        if ended is not None:
            self._done[ended.task] = max(ended.round, self._done.get(ended.task, 0))
        self._phase, self._work, self._update, self.due_s = "idle", None, None, None
        if self._announced is not None:
            self._hear_announce(self._announced, now_s)

    def _again(self, now_s: float) -> None:
        wait_s = min(_MAX_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(self._n_sent, _MAX_DOUBLINGS))
        self._n_sent += 1
        self.due_s = now_s + wait_s / 2 + self._random.uniform(0, wait_s / 2)
