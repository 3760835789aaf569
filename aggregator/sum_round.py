"""The secure sum of one round on the service: takes messages, ends steps, and is one mean and one weight at the end.

Workflow of a message: known before? -> of the present step? -> ``SumServer`` takes it -> durable -> receipt.
Workflow of a step's end: ``SumServer.close`` -> durable with the round's next state -> messages to devices.

Laws: as ``task_runner``'s: the store is the truth and this object a cache of it; the running sum is all that is known
of vectors, here and in the store; a sum that fails abandons its round and nothing is asked of anybody. Does not know
deadlines (the runner's) or who may take part (``core.intake``'s). Memory: one uint32 vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.folding import FoldContext, fold_checked
from aggregator.core.records import Traffic
from aggregator.core.rounds import SUM_EVENTS
from host.logs import event
from protocol.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from protocol.secure_sum.graph import choose
from protocol.secure_sum.messages import SumPlan
from protocol.secure_sum.roster import quantiser_of
from protocol.secure_sum.server import SumServer
from protocol.sum_round import SumNext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from aggregator.conversation import Outgoing
    from aggregator.core.folding import State
    from aggregator.core.intake import Stepped
    from aggregator.core.records import RoundRecord
    from aggregator.core.rounds import RoundEvent
    from aggregator.store_ports import SumStore
    from aggregator.task_setup import TaskSetup, World
    from protocol.signing import VerifyKey
    from protocol.sum_round import SumNextName, SumStepName, SumTerms

__all__ = ["SumParts", "SumRound", "check_terms", "fold_sum"]

# What begins with the end of each step; after the last there is nothing to send.
_NEXT: Final[Mapping[SumStepName, SumNextName]] = {
    "adverts": "roster",
    "shares": "delivery",
    "inputs": "survivors",
    "consents": "agreement",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SumParts:
    """What secure sums need of the world.

    Attributes:
        store: where they are kept.
        directory: the devices' own keys.
        chain_of: a device's certificate and what signed it, DER, up to but without the root; empty if it has none that
            names its key; None in a fleet without an authority, where devices have a registry of their own.
    """

    store: SumStore
    directory: Mapping[str, VerifyKey]
    chain_of: Callable[[str], tuple[bytes, ...]] | None = None


class SumRound:
    """One round's sum."""

    def __init__(self, setup: TaskSetup, world: World, round_: RoundRecord) -> None:
        """Begin, or go on where the store says."""
        if world.sums is None:
            raise LocalProtocolError("a secure sum in a world without sums")
        self._setup, self._world, self._parts, self._round = setup, world, world.sums, round_
        stored = self._parts.store.state(round_.task, round_.round)
        if stored is None:
            self._server = SumServer(plan=_plan(setup, world, round_), directory=self._parts.directory)
        else:
            self._server = SumServer.unpack(stored, directory=self._parts.directory)

    @property
    def is_complete(self) -> bool:
        """Whether everybody has answered who can in this step."""
        return self.n_answered >= self._server.n_expected

    @property
    def n_answered(self) -> int:
        """How many devices have answered in this step."""
        return len(self._server.answered)

    def due_event(self, *, is_past_deadline: bool) -> RoundEvent | None:
        """Return what ends the present step if it is over; the first ends as an open round does."""
        return SUM_EVENTS[self._step] if self.is_complete or is_past_deadline else None

    def take(self, stepped: Stepped, *, n_bytes: int) -> list[Outgoing]:
        """Keep a device's message durably and return its receipt; to one that came before also what followed.

        Raises:
            RemoteProtocolError: refused; nothing has changed (the peer's fault).
        """
        device, step, round_ = stepped.device, stepped.step, self._round
        receipt = self._world.conversation.accepted(device, step)
        before = self._parts.store.taken(round_.task, round_.round, device, step.step)
        if before is not None:
            if before != step.update_id:
                raise RemoteProtocolError(f"{device} has answered {step.step}", reason="duplicate")
            return [receipt, *self._messages([device])]
        if step.step != self._server.step:
            raise RemoteProtocolError(f"{step.step} came, the sum takes {self._server.step}", reason="out-of-step")
        if step.step == "adverts" and self._parts.chain_of is not None and not self._parts.chain_of(device):
            raise RemoteProtocolError(f"no certificate of {device} names its signing key", reason="no-certificate")
        self._server.receive(device, stepped.message)
        self._parts.store.accept(
            round_.task,
            round_.round,
            device,
            step=step.step,
            update_id=step.update_id,
            state=self._server.pack(),
            traffic=Traffic(up_bytes=n_bytes, down_bytes=receipt.n_bytes),
        )
        event("sum-step-taken", task=round_.task, round=round_.round, device=device, step=step.step, bytes=n_bytes)
        return [receipt]

    def close_step(self, *, deadline_unix_s: float) -> list[Outgoing] | None:
        """End the present step and return what devices are sent; None if the sum has failed."""
        step = self._step
        n_answered, n_expected = self.n_answered, self._server.n_expected
        messages = self._server.close()
        reason = self._server.abort_reason
        if self._server.step == "done":
            reason = _reason_against(self._server)
        if reason:
            event("sum-failed", task=self._round.task, round=self._round.round, step=step, reason=reason)
            return None
        following = _NEXT.get(step)
        outgoing = [] if following is None else [self._outgoing(d, following, m) for d, m in messages.items()]
        self._parts.store.close_step(
            self._round.task,
            self._round.round,
            SUM_EVENTS[step],
            state=self._server.pack(),
            step=following,
            messages=messages,
            n_bytes={d: out.n_bytes for d, out in zip(messages, outgoing, strict=True)},
            deadline_unix_s=deadline_unix_s,
        )
        self._log(step, n_answered, n_expected)
        return outgoing

    def unanswered(self) -> list[Outgoing]:
        """Return the present step's messages to those who have not answered it, for a service that comes back."""
        return self._messages([one for one in self._stored if one not in self._server.answered])

    @property
    def _step(self) -> SumStepName:
        step = self._server.step
        if step == "done" or step == "aborted":  # noqa: PLR1714 - narrows the type
            raise LocalProtocolError(f"a sum that is {step} takes no more")
        return step

    @property
    def is_as_configured(self) -> bool:
        """Whether the stored sum is of the terms that the task has now; devices were told those."""
        return self._server.plan == _plan(self._setup, self._world, self._round)

    @property
    def _stored(self) -> Mapping[str, tuple[SumNextName, bytes]]:
        return self._parts.store.messages(self._round.task, self._round.round)

    def _messages(self, devices: Sequence[str]) -> list[Outgoing]:
        stored = self._stored
        return [self._outgoing(one, *stored[one]) for one in devices if one in stored]

    def _outgoing(self, device: str, step: SumNextName, message: bytes) -> Outgoing:
        certificates, issuers = self._introductions(device) if step == "roster" else ((), ())
        body = SumNext(
            task=self._round.task,
            round=self._round.round,
            step=step,
            message=message,
            certificates=certificates,
            issuers=issuers,
        )
        return self._world.conversation.following(device, body)

    def _introductions(self, device: str) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Return the certificates of a device's neighbours, and what signed them."""
        if self._parts.chain_of is None:
            return (), ()
        setting = self._server.setting
        near = setting.graph.neighbours(setting.index_of(device))
        chains = [self._parts.chain_of(setting.roster.names[index]) for index in near]
        return tuple(chain[0] for chain in chains if chain), next((chain[1:] for chain in chains if chain), ())

    def _log(self, step: SumStepName, n_answered: int, n_expected: int) -> None:
        graph = self._server.setting.spec.describe() if step == "adverts" else None
        event(
            "sum-step-closed",
            task=self._round.task,
            round=self._round.round,
            step=step,
            n_answered=n_answered,
            n_expected=n_expected,
            graph=graph,
        )


def fold_sum(setup: TaskSetup, round_: RoundRecord, stored: bytes, state: State) -> tuple[State, int]:
    """Return the strategy's next state and how many devices are in it, from a finished sum's bytes.

    The strategy sees one delta, the weighted mean of the survivors rounded to float32, with their summed weight.

    Raises:
        MalformedMessageError, RemoteProtocolError: these are no bytes of a finished sum (the disk's fault).
    """
    server = SumServer.unpack(stored, directory={})
    result = server.result()

    def one() -> Iterator[tuple[NDArray[np.float32], int]]:
        yield result.mean.astype(np.float32), result.weight  # [n_params]

    context = FoldContext(layout=setup.bundle.layout, round=round_.round, version=round_.version, options=setup.options)
    return fold_checked(setup.strategy, state, one(), context), len(server.survivors())


def _plan(setup: TaskSetup, world: World, round_: RoundRecord) -> SumPlan:
    terms = setup.sum_terms
    if terms is None:
        raise LocalProtocolError(f"task {round_.task} asks for no secure sum")
    return SumPlan.of(
        terms,
        fleet=world.conversation.fleet,
        task=round_.task,
        round_=round_.round,
        version=round_.version,
        n_params=setup.n_params,
    )


def _reason_against(server: SumServer) -> str:
    """Return why a finished sum cannot be used; empty if it can."""
    try:
        server.result()
    except RemoteProtocolError as error:
        return error.reason
    return ""


def check_terms(task: str, terms: SumTerms) -> None:
    """Refuse terms under which no sum could be made.

    Raises:
        ConfigError: the figures need more than 32 bits, or no graph withstands the fractions (the user's fault).
    """
    plan = SumPlan.of(terms, fleet="any", task="any", round_=1, version=0, n_params=1)
    try:
        quantiser_of(plan)
        for n in {plan.min_cohort, plan.max_cohort}:
            choose(
                n,
                corrupt_fraction=plan.corrupt_fraction,
                dropout_fraction=plan.dropout_fraction,
                server=plan.server,
            )
    except ConfigError as error:
        raise ConfigError(f"task {task}: privacy.secure_sum: {error}") from error
