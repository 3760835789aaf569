"""Decides on one message of a device: admitted, declined, taken, taken before, or refused for one counted reason.

Laws: checks run from cheap to dear, and nothing is decoded before what carries it was verified; a decision changes
nothing, the caller makes it durable; a refusal of a verified message says so to the device, one of an unverified
message is only counted, since an answer would let a stranger make us talk. No IO, no clock, no database: facts come
through ``Ledger``. Memory: the message and one decoded delta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias, cast

from aggregator.core.bounds import max_message_bytes
from aggregator.core.opening import Figures, check_bounds, figures_of, open_delta
from aggregator.core.rounds import SUM_STATES
from protocol import sealing, signing, topics
from protocol.errors import RemoteProtocolError
from protocol.messages import Body, Fetch, Join, Renew, Update, unpack_envelope
from protocol.sum_round import SumStep
from protocol.uploads import Chunk, Upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.core.buffer import WorkOfBuffers
    from aggregator.core.privacy.sampling import PoissonSampling
    from aggregator.core.records import TaskState, UpdateRecord
    from aggregator.core.rounds import RoundState
    from aggregator.core.staging import Staged
    from protocol.plan import Plan
    from protocol.reasons import Reason
    from protocol.sealing import TaskKey
    from protocol.signing import VerifyKey

__all__ = [
    "Admitted",
    "Decision",
    "Declined",
    "Devices",
    "Fetching",
    "IntakeContext",
    "Ledger",
    "Refused",
    "Renewing",
    "Stepped",
    "Taken",
    "TakenBefore",
    "TaskView",
    "Uploading",
    "addressed",
    "decide",
    "decide_update",
    "of_this_round",
    "welcome",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """What the rules must know of a task and its latest round."""

    task: str
    state: TaskState
    bundle_id: str
    n_params: int
    plan: Plan
    max_examples: int
    n_places: int  # devices that a round hands work to
    key: TaskKey
    round: int
    round_state: RoundState
    version: int
    sampling: PoissonSampling | None = None  # None: whoever comes first
    seal_adapter: bool = False
    max_step_bytes: int | None = None  # of a secure sum's longest message; None where single updates are taken
    n_values_of: Callable[[str], int] | None = None  # of a device's update, where that is not n_params
    buffers: WorkOfBuffers | None = None  # of an asynchronous task: work of earlier rounds that is still welcome

    def n_values(self, device: str) -> int:
        """Return how many values an update of ``device`` has in this round."""
        return self.n_params if self.n_values_of is None else self.n_values_of(device)

    def version_of(self, round_: int) -> int | None:
        """Return the version that an update for ``round_`` is based on; None for a round that takes none any more."""
        if self.buffers is not None:
            return self.buffers.version_of.get(round_)
        return self.version if round_ == self.round else None

    def key_of(self, round_: int) -> TaskKey:
        """Return the key that opens what was sealed for ``round_``."""
        return self.key if self.buffers is None else self.buffers.key_of(round_)


class Devices(Protocol):
    """Who may take part."""

    def key_of(self, device: str) -> VerifyKey | None:
        """Return the device's public key, or None for a stranger.

        Raises:
            RemoteProtocolError: ``revoked``.
        """


class Ledger(Protocol):
    """What was decided before; reads only."""

    def view(self, task: str) -> TaskView | None:
        """Return the task, or None if there is no such one here."""

    def is_joined(self, task: str, round_: int, device: str) -> bool:
        """Return whether the device was handed work for this round."""

    def n_joined(self, task: str, round_: int) -> int:
        """Return how many devices were."""

    def taken(self, update_id: bytes) -> UpdateRecord | None:
        """Return the accepted update with this id."""

    def taken_from(self, task: str, round_: int, device: str) -> UpdateRecord | None:
        """Return the device's accepted update of this round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeContext:
    """What every decision needs."""

    fleet: str
    devices: Devices
    ledger: Ledger
    max_bytes: int  # of a whole message, over all tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The device gets work; again, if it is not ``is_first``."""

    device: str
    join: Join
    is_first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """The device is not wanted in this round."""

    device: str
    join: Join
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The update is good and new; a ``Staged`` one has its blob already."""

    device: str
    update: Update | Staged
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBefore:
    """The device's own update came again: it is told so and nothing else happens."""

    device: str
    update: Update | Staged | Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Not taken. ``device`` is who the topic claims; ``update`` is there once its signature held, and is answered."""

    reason: Reason
    detail: str
    device: str | None
    update: Update | Staged | SumStep | Upload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewing:
    """A known device asks for its next certificate; whether it gets one is the issuance's affair."""

    device: str
    renew: Renew


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """A message of a device in this round's secure sum, opened; whether the sum takes it is ``sum_round``'s affair."""

    device: str
    step: SumStep
    message: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploading:
    """A manifest or a chunk of a known device: ``aggregator.uploads`` puts the whole together, to be decided here."""

    device: str
    body: Upload | Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """A known device asks for the newest version; whether it gets it is ``aggregator.latest``'s affair."""

    device: str
    fetch: Fetch


Decision: TypeAlias = Admitted | Declined | Taken | TakenBefore | Refused | Renewing | Stepped | Uploading | Fetching


def decide(topic: str, payload: bytes, context: IntakeContext) -> Decision:  # noqa: PLR0911 - one for each kind
    """Return what to do with one message; never raises for anything that a peer can send."""
    claimed = topics.device_of(topic)
    try:
        device, body = _verified(claimed, topic, payload, context)
    except RemoteProtocolError as error:
        return Refused(reason=_reason(error), detail=str(error), device=claimed)
    match body:
        case Join():
            return _decide_join(device, body, context.ledger)
        case Update():
            return decide_update(device, body, context)
        case SumStep():
            return _decide_step(device, body, context)
        case Renew():
            return Renewing(device=device, renew=body)
        case Fetch():
            return Fetching(device=device, fetch=body)
        case Upload() | Chunk():
            return Uploading(device=device, body=body)
        case _:
            detail = "a device sends joins, updates, steps of a sum, uploads, fetches and renewals only"
            return Refused(reason="malformed", detail=detail, device=device)


def _verified(claimed: str | None, topic: str, payload: bytes, context: IntakeContext) -> tuple[str, Body]:
    envelope = unpack_envelope(payload, max_bytes=context.max_bytes)
    if claimed != envelope.sender:
        _refuse("wrong-sender", f"the topic of {str(claimed)[:64]} carries a message of {envelope.sender}")
    if topic != topics.up(context.fleet, envelope.sender, envelope.kind):
        _refuse("malformed", f"a message of kind {envelope.kind} came on another kind's topic")
    key = context.devices.key_of(envelope.sender)
    if key is None:
        _refuse("unknown-device", f"{envelope.sender} is not in the registry")
    return envelope.sender, signing.open_envelope(envelope, fleet=context.fleet, key=key)


def _decide_join(device: str, join: Join, ledger: Ledger) -> Decision:
    view = ledger.view(join.task)
    is_known = view is not None and ledger.is_joined(join.task, join.round, device)
    reason: Reason | None = "wrong-task"
    if view is not None:
        reason = _closed_to(join, view) or _unwanted(device, join, view, ledger, is_known=is_known)
    if reason is not None:
        return Declined(device=device, join=join, reason=reason)
    return Admitted(device=device, join=join, is_first=not is_known)


def _closed_to(join: Join, view: TaskView) -> Reason | None:
    if join.bundle_id != view.bundle_id:
        return "wrong-bundle"
    if view.state in {"finished", "stopped"}:
        return "finished"
    if join.round > view.round:
        return "wrong-round"
    return "late" if join.round < view.round or view.round_state != "open" else None


def _unwanted(device: str, join: Join, view: TaskView, ledger: Ledger, *, is_known: bool) -> Reason | None:
    if ledger.taken_from(join.task, join.round, device) is not None:
        return "duplicate"  # its update is in: training again would be for nothing
    if view.state == "paused" and not is_known and view.sampling is None:  # its coins decide, until the deadline
        return "paused"
    if view.sampling is not None and not view.sampling.takes(round_=join.round, device=device):
        return "not-selected"
    if view.seal_adapter and (join.seal_key is None or not sealing.can_seal_to(join.seal_key)):
        return "no-seal-key"
    is_full = ledger.n_joined(join.task, join.round) >= view.n_places
    return "not-selected" if is_full and not is_known else None


def decide_update(device: str, update: Update, context: IntakeContext) -> Decision:
    """Return what to do with an update whose signature held."""
    try:
        view = welcome(device, update, context, sealed_bytes=len(update.sealed))
        if isinstance(view, TakenBefore):
            return view
        content, delta = open_delta(
            update,
            fleet=context.fleet,
            device=device,
            key=view.key_of(update.round),
            n_params=view.n_values(device),
            max_bytes=max_message_bytes(view.plan, view.n_values(device)),
        )
        check_bounds(content, delta, plan=view.plan, max_examples=view.max_examples)
    except RemoteProtocolError as error:
        return Refused(reason=_reason(error), detail=str(error), device=device, update=update)
    return Taken(device=device, update=update, figures=figures_of(content))


def welcome(
    device: str, update: Update | Staged, context: IntakeContext, *, sealed_bytes: int
) -> TaskView | TakenBefore:
    """Return the task that takes this update, as far as can be told while it is sealed; or that it was taken before.

    Raises:
        RemoteProtocolError: it is not taken; ``reason`` says why (the peer's fault, or too late).
    """
    before = context.ledger.taken(update.update_id)
    view = addressed(update, context.ledger)
    if before is not None:
        if (before.task, before.round, before.device) == (update.task, update.round, device):
            return TakenBefore(device=device, update=update)
        _refuse("replayed", "this update id was taken before, for another round or of another device")
    if view.max_step_bytes is not None:
        _refuse("wrong-privacy", f"{update.task} takes no single updates")
    _expected(device, update, view, context.ledger, sealed_bytes)
    return view


def _decide_step(device: str, step: SumStep, context: IntakeContext) -> Decision:
    try:
        view = addressed(step, context.ledger)
        if view.max_step_bytes is None:
            _refuse("wrong-privacy", f"{step.task} makes no secure sum")
        of_this_round(device, step, view, context.ledger)
        if view.round_state not in SUM_STATES.values():
            _refuse("late", f"the sum of round {step.round} has ended")
        if len(step.sealed) > view.max_step_bytes:
            _refuse("oversize", f"a step of {len(step.sealed)} bytes, at most {view.max_step_bytes} are taken")
        info = sealing.step_binding(fleet=context.fleet, device=device, step=step)
        return Stepped(device=device, step=step, message=view.key.open(step.sealed, info=info))
    except RemoteProtocolError as error:
        return Refused(reason=_reason(error), detail=str(error), device=device, update=step)


def addressed(update: Update | Staged | SumStep | Upload, ledger: Ledger) -> TaskView:
    """Return the task that a message is for.

    Raises:
        RemoteProtocolError: ``wrong-task`` or ``wrong-bundle`` (the peer's fault).
    """
    view = ledger.view(update.task)
    if view is None:
        _refuse("wrong-task", f"there is no task {update.task} here")
    if update.bundle_id != view.bundle_id:
        _refuse("wrong-bundle", f"{update.task} has bundle {view.bundle_id[:12]}, the update {update.bundle_id[:12]}")
    return view


def _expected(device: str, update: Update | Staged, view: TaskView, ledger: Ledger, n_bytes: int) -> None:
    of_this_round(device, update, view, ledger)
    if view.round_state != "open":
        _refuse("late", f"round {update.round} has closed")
    if ledger.taken_from(update.task, update.round, device) is not None:
        _refuse("duplicate", f"another update of {device} was taken for round {update.round}")
    max_bytes = max_message_bytes(view.plan, view.n_values(device))
    if n_bytes > max_bytes:  # the bound before decoding was that of the largest task
        _refuse("oversize", f"a sealed update of {n_bytes} bytes, at most {max_bytes} are taken")


def of_this_round(device: str, update: Update | Staged | SumStep | Upload, view: TaskView, ledger: Ledger) -> None:
    """Return if a message is for a round that takes some, on its version, and of a device that was handed work.

    Raises:
        RemoteProtocolError: ``wrong-round``, ``stale``, ``late``, ``wrong-version`` or ``not-joined`` (the peer's).
    """
    if update.round > view.round:
        _refuse("wrong-round", f"round {update.round} has not opened, the latest is {view.round}")
    version = view.version_of(update.round)
    if version is None and view.buffers is not None:
        _refuse("stale", f"round {update.round} is older than what is taken on version {view.version}")
    if version is None:
        _refuse("late", f"round {update.round} has closed")
    if update.version != version:
        _refuse("wrong-version", f"round {update.round} is on version {version}, the update on {update.version}")
    if not ledger.is_joined(update.task, update.round, device):
        _refuse("not-joined", f"{device} was handed no work for round {update.round}")


def _refuse(reason: Reason, message: str) -> NoReturn:
    raise RemoteProtocolError(message, reason=reason)


def _reason(error: RemoteProtocolError) -> Reason:
    return cast("Reason", error.reason)
