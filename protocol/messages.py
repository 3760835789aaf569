"""The messages of protocol version 1, their bounds, and the reasons for which one is refused.

A message travels as an *envelope*: kind, sender, the body's bytes and an Ed25519 signature over all of them and the
fleet, and a second one by ML-DSA-65 where the sender has such a key. The conversation of one round:

    service  announce   everyone, retained: round R of task T is open on version V
    device   join       I take part
    service  work       the adapter, the plan, the key to seal to     | decline   not this time, and why
    device   update     a sealed delta
    service  receipt    durably taken, or refused and why

In a secure sum (docs/secure-sum.md) five steps take the place of the update, each with a receipt:

    device   sum-step   one sealed message of ``protocol.secure_sum``
    service  sum-next   what the device needs for its next step

A device that only predicts, or was in no late round, asks for the newest version:

    device   fetch      which version it has
    service  latest     the newest promoted one

An update or a step that is large travels in chunks (``protocol.uploads``).

And, before its certificate ends, with the service that enrolled it (``protocol.enrolment``):

    device   renew         a new certificate request
    service  certificate   the new certificate and its issuers

Laws: ``body`` is decoded only after the signature held; each field is bounded here and the whole message by the caller;
correctness needs nothing of MQTT but at-least-once: every answer can be asked for again and every update has an id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

from protocol import cbor
from protocol.continual import ContinualTerms  # noqa: TC001 - structure() resolves the annotations
from protocol.errors import MalformedMessageError
from protocol.fields import Bytes, FieldError, Hex, Length, Name, Range, plain, structure
from protocol.layout import Role
from protocol.metrics import DeviceMetrics, MetricNames  # noqa: TC001 - structure() resolves the annotations
from protocol.second_signature import SECOND_SIGNATURE_BYTES
from protocol.uploads import Chunk, Upload, Uploaded

__all__ = [
    "ENVELOPE_OVERHEAD_BYTES",
    "MAX_EXAMPLES",
    "MAX_MESSAGE_BYTES",
    "MAX_ROUND",
    "MAX_SPREAD_S",
    "MAX_SUM_COHORT",
    "MIN_SUM_COHORT",
    "PROTOCOL_VERSION",
    "REASONS",
    "Announce",
    "Body",
    "Certificate",
    "Codec",
    "Decline",
    "DeviceTerms",
    "Envelope",
    "Fetch",
    "Join",
    "Kind",
    "Latest",
    "Optimizer",
    "Plan",
    "Reason",
    "Receipt",
    "Renew",
    "SampleDp",
    "SumNext",
    "SumNextName",
    "SumStep",
    "SumStepName",
    "SumTerms",
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

# A 5M-parameter adapter as float32 is 20 MB; MQTT itself ends at 256 MiB. Larger adapters need chunks, not a larger
# bound.
MAX_MESSAGE_BYTES: Final = 64 * 2**20
# Kind, names, signatures and CBOR heads of an envelope and an update around a payload; measured 1.5 kB with HPKE's
# 1,136, and 4.9 kB with a second signature.
ENVELOPE_OVERHEAD_BYTES: Final = 8192
MAX_EXAMPLES: Final = 10**9
MAX_ROUND: Final = 2**31
MAX_SPREAD_S: Final = 86_400.0  # a day: longer, and the round is over before a device calls

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

# The messages of a secure sum in their order: what a device sends, and what it needs for the next.
SumStepName: TypeAlias = Literal["adverts", "shares", "inputs", "consents", "unmasking"]
SumNextName: TypeAlias = Literal["roster", "delivery", "survivors", "agreement"]
MIN_SUM_COHORT: Final = 3  # ``secure_sum.graph.MIN_COHORT``
MAX_SUM_COHORT: Final = 1000  # ``secure_sum.graph.MAX_COHORT``

# Why a message was not taken. Operators see these names in counters, devices in receipts.
Reason: TypeAlias = Literal[
    "malformed",  # not a message of this version, or a field out of bounds
    "oversize",  # longer than the bound; not decoded
    "unknown-device",  # not in the registry
    "revoked",  # was in the registry, until its operator took it out
    "bad-renewal",  # a certificate was asked for where nobody signs, with a request of another, or too often
    "wrong-sender",  # the topic belongs to another device than the envelope names
    "bad-signature",  # not signed by the device it names
    "wrong-task",  # no such task here
    "wrong-bundle",  # trained with another bundle than the task's
    "wrong-round",  # a round that has not opened yet
    "late",  # the round has closed
    "stale",  # trained on an older version than an asynchronous task takes
    "wrong-version",  # based on another adapter version than the round's
    "not-selected",  # the cohort is full
    "not-joined",  # an update without a join: no work was handed out for it
    "replayed",  # this very update was taken before
    "duplicate",  # another update of this device was taken for this round
    "bad-seal",  # does not open for this task, round, version, device and update id
    "wrong-shape",  # not as many values as the adapter has
    "not-finite",  # NaN or infinity
    "bad-encoding",  # an update codec's rule is broken
    "norm-exceeded",  # longer than the plan's clip
    "bad-examples",  # more examples than the task takes from one device
    "paused",  # the task takes nobody for now
    "finished",  # the task has ended
    "no-seal-key",  # the task seals its adapter, and the join brings no key, or none that can be sealed to
    "wrong-privacy",  # a single update where the task asks for a secure sum, or the reverse
    "no-certificate",  # a secure sum, and the device's certificate does not name its signing key
    "out-of-step",  # a secure sum's message for another step than the present one
    "not-shared",  # a masked vector of a device that gave no shares
    "not-survived",  # a consent or shares of a device whose vector is not in the sum
    "too-often",  # a device asks for the newest version again and again
    "bad-chunk",  # a piece of an upload, or its whole, that is not what its manifest names
]
REASONS: Final[tuple[Reason, ...]] = Reason.__args__  # type: ignore[attr-defined]  # Literal keeps its choices there


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
class Optimizer:
    """The local optimiser; ``beta1`` is SGD's momentum, ``beta2`` and ``epsilon`` are AdamW's."""

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Range(1e-9, 10.0)] = 1e-3
    weight_decay: Annotated[float, Range(0.0, 1.0)] = 0.01
    beta1: Annotated[float, Range(0.0, 0.9999)] = 0.9
    beta2: Annotated[float, Range(0.0, 0.99999)] = 0.999
    epsilon: Annotated[float, Range(1e-12, 1e-2)] = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How a vector is encoded; ``block`` values share a scale in ``int8-block``."""

    name: Literal["float32", "float16", "int8-block"] = "int8-block"
    block: Annotated[int, Range(8, 65536)] = 64


_Roles: TypeAlias = Annotated[tuple[Role, ...], Length(1, 16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTerms:
    """What a strategy asks of a device beyond plain local training; all absent, it asks nothing (docs/strategies.md).

    An agent that does not know a term refuses the work, rather than train something else than it was asked to.
    """

    proximal_mu: Annotated[float, Range(0.0, 1e6)] | None = None  # weight of |w - w_t|^2 / 2
    # The adapter is followed by the service's control variate and the delta by the change of the device's own.
    has_controls: bool | None = None
    frozen_roles: _Roles | None = None  # tensors that are neither trained nor sent in this round
    personal_roles: _Roles | None = None  # tensors that are trained, stay on the device and are never sent
    lora_rank: Annotated[int, Range(1, 65536)] | None = (
        None  # of this device: the first so many rows of A, columns of B
    )
    # The adapter is followed by what is added to the base weights of the LoRA pairs (``protocol.lora_pairs``: dense).
    base_change: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDp:
    """Differential privacy of single examples, made on the device: DP-SGD with Poisson batches of ``Plan.batch_size``.

    The device draws coins and noise by itself and does not use ``Plan.seed`` for them.
    """

    clip: Annotated[float, Range(1e-6, 1e6)]  # L2 norm of one example's gradient, over all tensors
    noise_multiplier: Annotated[float, Range(0.05, 1e4)]  # the noise's standard deviation over the clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a device does with its examples in one round."""

    epochs: Annotated[int, Range(1, 1000)] = 1
    batch_size: Annotated[int, Range(1, 4096)] = 16
    micro_batch: Annotated[int, Range(1, 4096)] | None = None  # examples at once; the gradient stays the batch's
    max_tokens: Annotated[int, Range(1, 8192)] = 64
    optimizer: Optimizer = field(default_factory=Optimizer)
    clip_grad_norm: Annotated[float, Range(1e-6, 1e9)] | None = None
    clip_update_norm: Annotated[float, Range(1e-6, 1e9)] | None = None  # L2 of the delta before it is encoded
    codec: Codec = field(default_factory=Codec)
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    dp: SampleDp | None = None
    terms: DeviceTerms | None = None  # absent for plain federated averaging
    continual: ContinualTerms | None = None  # absent: each round is learnt as it comes


@dataclass(frozen=True, slots=True, kw_only=True)
class SumTerms:
    """What a task's secure sums are agreed on; with fleet, task, round, version and size they are a ``SumPlan``."""

    clip: Annotated[float, Range(1e-12, 1e12)]
    weight_cap: Annotated[int, Range(1, MAX_EXAMPLES)]
    input_bits: Annotated[int, Range(2, 31)]
    min_cohort: Annotated[int, Range(MIN_SUM_COHORT, MAX_SUM_COHORT)]
    max_cohort: Annotated[int, Range(MIN_SUM_COHORT, MAX_SUM_COHORT)]
    corrupt_fraction: Annotated[float, Range(0, 0.99)]
    dropout_fraction: Annotated[float, Range(0, 0.99)]
    server: Literal["curious", "lying"]
    # Distributed privacy, absent without: see ``SumPlan``. Every device then counts the same.
    noise_levels: Annotated[int, Range(1, 2**31)] | None = None
    noise_multiplier: Annotated[float, Range(0.01, 1e4)] | None = None

    def __post_init__(self) -> None:
        """Refuse noise without room for it, the reverse, and devices that do not count the same under it."""
        if (self.noise_levels is None) != (self.noise_multiplier is None):
            raise FieldError("noise_levels, noise_multiplier: give both or neither")
        if self.noise_multiplier is not None and self.weight_cap != 1:
            raise FieldError(f"weight_cap: with a noise_multiplier it is 1, not {self.weight_cap}")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SumStep:
    """One message of a device in a secure sum, sealed to the task's key (``sealing.step_binding``)."""

    task: Name
    round: Annotated[int, Range(1, MAX_ROUND)]
    version: Annotated[int, Range(0, MAX_ROUND)]
    bundle_id: Hex
    step: SumStepName
    update_id: Annotated[bytes, Bytes(16)]
    sealed: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SumNext:
    """What a device needs for its next step; with a roster come its neighbours' certificates, where there are any."""

    task: Name
    round: Annotated[int, Range(1, MAX_ROUND)]
    step: SumNextName
    message: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]
    certificates: Annotated[tuple[Annotated[bytes, Length(1, 4096)], ...], Length(0, MAX_SUM_COHORT)] = ()
    issuers: Annotated[tuple[Annotated[bytes, Length(1, 4096)], ...], Length(0, 4)] = ()  # the last is the root's own


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
