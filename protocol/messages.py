"""The messages of protocol version 1: the envelope, the bodies of a round, and their bytes.

A message travels as an *envelope*: kind, sender, the body's bytes and an Ed25519 signature over all of them and the
fleet, and a second one by ML-DSA-65 where the sender has such a key. The conversation of one round:

    service  announce   everyone, retained: round R of task T is open on version V
    device   join       I take part
    service  work       the adapter, the plan, the key to seal to     | decline   not this time, and why
    device   update     a sealed delta
    service  receipt    durably taken, or refused and why

In a secure sum (docs/secure-sum.md) five steps take the place of the update, each with a receipt
(``protocol.sum_round``):

    device   sum-step   one sealed message of ``protocol.secure_sum``
    service  sum-next   what the device needs for its next step

A device that only predicts, or was in no late round, asks for the newest version:

    device   fetch      which version it has
    service  latest     the newest promoted one

An update or a step that is large travels in chunks (``protocol.uploads``).

And, before its certificate ends, with the service that enrolled it (``protocol.enrolment``):

    device   renew         a new certificate request
    service  certificate   the new certificate and its issuers

What a work's plan asks for is in ``protocol.plan``, why a message is refused in ``protocol.reasons``.

Laws: ``body`` is decoded only after the signature held; each field is bounded where it is declared, and the whole
message by the caller; correctness needs nothing of MQTT but at-least-once: every answer can be asked for again and
every update has an id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

from protocol import cbor
from protocol.bounds import MAX_EXAMPLES, MAX_MESSAGE_BYTES, MAX_ROUND, MAX_SPREAD_S
from protocol.errors import MalformedMessageError
from protocol.fields import Bytes, FieldError, Hex, Length, Name, Range, plain, structure
from protocol.metrics import DeviceMetrics, MetricNames  # noqa: TC001 - structure() resolves the annotations
from protocol.plan import Plan  # noqa: TC001 - likewise
from protocol.reasons import Reason  # noqa: TC001 - likewise
from protocol.second_signature import SECOND_SIGNATURE_BYTES
from protocol.sum_round import SumNext, SumStep, SumTerms
from protocol.uploads import Chunk, Upload, Uploaded

__all__ = [
    "PROTOCOL_VERSION",
    "Announce",
    "Body",
    "Certificate",
    "Decline",
    "Envelope",
    "Fetch",
    "Join",
    "Kind",
    "Latest",
    "Receipt",
    "Renew",
    "Update",
    "UpdateContent",
    "Work",
    "body_of",
    "kind_of",
    "pack_body",
    "pack_content",
    "pack_envelope",
    "unpack_body",
    "unpack_content",
    "unpack_envelope",
]

PROTOCOL_VERSION: Final = 1

Kind: TypeAlias = Literal[
    "announce",
    "join",
    "work",
    "decline",
    "update",
    "receipt",
    "renew",
    "certificate",
    "sum-step",
    "sum-next",
    "upload",
    "chunk",
    "uploaded",
    "fetch",
    "latest",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What is on the wire; ``signature`` is over ``protocol.signing.signed_bytes``."""

    v: Annotated[int, Range(PROTOCOL_VERSION, PROTOCOL_VERSION)] = PROTOCOL_VERSION
    kind: Kind
    sender: Name  # a device id, or "service"
    body: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]
    signature: Annotated[bytes, Bytes(64)]
    second_signature: Annotated[bytes, Bytes(SECOND_SIGNATURE_BYTES)] | None = None  # ML-DSA-65, over the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Round ``round`` of ``task`` is open on adapter ``version``, none is open for now, or the task has finished."""

    task: Name
    state: Literal["open", "paused", "finished"]
    round: Annotated[int, Range(0, MAX_ROUND)]
    version: Annotated[int, Range(0, MAX_ROUND)]
    bundle_id: Hex
    spread_s: Annotated[float, Range(0.0, MAX_SPREAD_S)] | None = None  # wait a random part of it before joining
    seal_adapter: bool | None = None  # a join must bring a key, to which the adapter is sealed
    # Of an asynchronous task: work since this round is still welcome, so go on with it whatever opens meanwhile.
    oldest_round: Annotated[int, Range(1, MAX_ROUND)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A device that has the bundle offers to take part in a round."""

    task: Name
    round: Annotated[int, Range(1, MAX_ROUND)]
    bundle_id: Hex
    seal_key: Annotated[bytes, Bytes(1184 + 32)] | None = None  # made for this round, as a task's


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All that a device needs for one round."""

    task: Name
    round: Annotated[int, Range(1, MAX_ROUND)]
    version: Annotated[int, Range(0, MAX_ROUND)]
    bundle_id: Hex
    plan: Plan
    adapter: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]  # encoded by protocol.codec
    task_key: Annotated[bytes, Bytes(1184 + 32)]  # ML-KEM-768 and X25519 public keys, see protocol.sealing
    seconds_left: Annotated[float, Range(0.0, 1e7)]
    adapter_sealed: bool | None = None  # ``adapter`` is sealed to the join's key (``sealing.adapter_binding``)
    secure_sum: SumTerms | None = None  # no single update is wanted: the vector goes into a secure sum
    metrics: MetricNames | None = None  # what the task would like to know of how the device learns


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """The device is not wanted in this round, for this reason."""

    task: Name
    round: Annotated[int, Range(0, MAX_ROUND)]
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A sealed ``UpdateContent``, and what the seal is bound to."""

    task: Name
    round: Annotated[int, Range(1, MAX_ROUND)]
    version: Annotated[int, Range(0, MAX_ROUND)]
    bundle_id: Hex
    update_id: Annotated[bytes, Bytes(16)]
    sealed: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateContent:
    """What only the aggregator reads."""

    n_examples: Annotated[int, Range(1, MAX_EXAMPLES)]
    n_steps: Annotated[int, Range(1, 10**9)]
    loss: Annotated[float, Range(0.0, 1e9)]  # mean over the last local epoch; 0 where the plan has dp: it is not noised
    train_s: Annotated[float, Range(0.0, 1e7)]  # time in training steps, for the operator's pacing
    delta: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]  # encoded by protocol.codec
    metrics: DeviceMetrics | None = None  # of those that the work asks for, what the device's owner lets it tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The update is durably taken, or was refused for ``reason``; a device may forget it either way."""

    task: Name
    round: Annotated[int, Range(0, MAX_ROUND)]
    update_id: Annotated[bytes, Bytes(16)]
    status: Literal["accepted", "refused"]
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """An enrolled device asks for its next certificate."""

    request: Annotated[bytes, Length(1, 4096)]  # PKCS #10, DER


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A device's new certificate, DER, and what signed it; the last one is signed by the root that the device has."""

    chain: Annotated[tuple[Annotated[bytes, Length(1, 4096)], ...], Length(1, 4)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """A device asks for the newest promoted version, to predict with; it takes part in nothing by that."""

    task: Name
    bundle_id: Hex
    version: Annotated[int, Range(0, MAX_ROUND)]  # the newest that it has; 0: the bundle's own
    seal_key: Annotated[bytes, Bytes(1184 + 32)] | None = None  # as in ``Join``


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """The newest promoted version; without ``adapter`` the device has it already."""

    task: Name
    version: Annotated[int, Range(0, MAX_ROUND)]
    bundle_id: Hex
    plan: Plan  # what it was trained under: how long a text is, which values are what
    adapter: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)] | None = None
    adapter_sealed: bool | None = None  # to the fetch's key, as for round 0, which no work has


Body: TypeAlias = (
    Announce
    | Join
    | Work
    | Decline
    | Update
    | Receipt
    | Renew
    | Certificate
    | SumStep
    | SumNext
    | Upload
    | Chunk
    | Uploaded
    | Fetch
    | Latest
)

_BODIES: Final[dict[Kind, type[Body]]] = {
    "announce": Announce,
    "join": Join,
    "work": Work,
    "decline": Decline,
    "update": Update,
    "receipt": Receipt,
    "renew": Renew,
    "certificate": Certificate,
    "sum-step": SumStep,
    "sum-next": SumNext,
    "upload": Upload,
    "chunk": Chunk,
    "uploaded": Uploaded,
    "fetch": Fetch,
    "latest": Latest,
}

_KINDS: Final[dict[type[Body], Kind]] = {cls: kind for kind, cls in _BODIES.items()}

T = TypeVar("T")


def body_of(kind: Kind) -> type[Body]:
    """Return the dataclass of a message kind."""
    return _BODIES[kind]


def kind_of(body: Body) -> Kind:
    """Return the kind under which ``body`` travels."""
    return _KINDS[type(body)]


def pack_body(body: Body) -> bytes:
    """Return the deterministic bytes of a body, to be signed."""
    return cbor.dumps(plain(body))


def unpack_body(kind: Kind, data: bytes) -> Body:
    """Return the body of ``kind`` in ``data``.

    Raises:
        MalformedMessageError: a field is missing, unknown, mistyped or out of bounds (the peer's fault).
    """
    return _unpack(_BODIES[kind], data, max_bytes=MAX_MESSAGE_BYTES)


def pack_envelope(envelope: Envelope) -> bytes:
    """Return the bytes to publish."""
    return cbor.dumps(plain(envelope))


def unpack_envelope(data: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Envelope:
    """Return the envelope in ``data``; its body is still opaque and its signature unchecked.

    Raises:
        MessageTooLargeError: longer than ``max_bytes`` (the peer's fault).
        MalformedMessageError: not an envelope of this version (the peer's fault).
    """
    return _unpack(Envelope, data, max_bytes=max_bytes)


def pack_content(content: UpdateContent) -> bytes:
    """Return the bytes to seal."""
    return cbor.dumps(plain(content))


def unpack_content(data: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> UpdateContent:
    """Return the content of an opened update.

    Raises:
        MalformedMessageError: as for ``unpack_body`` (the peer's fault).
    """
    return _unpack(UpdateContent, data, max_bytes=max_bytes)


def _unpack(cls: type[T], data: bytes, *, max_bytes: int) -> T:
    value = cbor.loads(data, max_bytes=max_bytes)
    try:
        return structure(cls, value)
    except FieldError as error:
        raise MalformedMessageError(f"{cls.__name__}: {error}") from error
