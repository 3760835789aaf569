"""The plan of a secure sum and its messages, in the order in which they are sent.

    device  Advert        my two public keys for this round, signed by my own key
    server  Roster        who takes part, and your neighbours' adverts
    device  Shares        shares of my two secrets, each sealed to one neighbour
    server  Delivery      who shared, and what your neighbours sealed to you
    device  MaskedInput   my masked vector, and my signature of who shared
    server  Survivors     whose masked vectors came, and your neighbours' signatures
    device  Consent       my signature of exactly these survivors
    server  Agreement     your neighbours' consents
    device  Unmask        for each neighbour one share: of its self-mask if it survived, else of its mask key

Laws: a device is its index in the roster's ascending names; a set of devices is a bitmap of n bits (bit i of byte
i // 8, spare bits zero); lists for neighbours are concatenated records of one size, ascending by index; lengths are
checked before anything is cut. Needs no numpy. Who sent a message is known from its envelope (``protocol.signing``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, TypeVar

from protocol import cbor
from protocol.bounds import MAX_EXAMPLES, MAX_MESSAGE_BYTES, MAX_ROUND
from protocol.errors import ConfigError, MalformedMessageError, RemoteProtocolError
from protocol.fields import Bytes, FieldError, Length, Name, Range, plain, structure
from protocol.layout import MAX_PARAMS
from protocol.secure_sum.keys import SEAL_OVERHEAD_BYTES, digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from protocol.sum_round import SumTerms

__all__ = [
    "ADVERT_BYTES",
    "KEY_BYTES",
    "SEALED_BYTES",
    "SHARE_BYTES",
    "SIGNATURE_BYTES",
    "Advert",
    "Agreement",
    "Consent",
    "Delivery",
    "MaskedInput",
    "Roster",
    "ServerStep",
    "Shares",
    "SumPlan",
    "SumReason",
    "Survivors",
    "Unmask",
    "bitmap",
    "cut",
    "members",
    "pack",
    "unpack",
]

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SHARE_BYTES: Final = 36  # nine limbs of four bytes: ``shamir.SHARE_BYTES``, repeated to spare this module numpy
ADVERT_BYTES: Final = 2 * KEY_BYTES + SIGNATURE_BYTES
SEALED_BYTES: Final = 2 * SHARE_BYTES + SEAL_OVERHEAD_BYTES
_MAX_COHORT: Final = 1000  # ``graph.MAX_COHORT``
_BITMAP: Final = Length(1, (_MAX_COHORT + 7) // 8)
_MIN_COHORT: Final = 3

# Why an input is refused or a sum given up. A refused input changes nothing.
SumReason: TypeAlias = Literal[
    "malformed",  # not a message of this kind and version
    "oversize",  # longer than its bound; not decoded
    "out-of-step",  # a message for another step, or after the end
    "unknown-device",  # not in the directory or not in the roster
    "duplicate",  # the second message of a device in a step
    "bad-signature",  # not signed by the device that it names
    "bad-key",  # a public key of low order
    "bad-roster",  # names not ascending, own advert missing or changed, too few
    "wrong-shape",  # a list, bitmap or vector of another length than this step's
    "bad-encoding",  # spare bits set
    "not-shared",  # oneself or too many neighbours are not among those who shared
    "not-survived",  # oneself is not among the survivors, or they are too few, or one of them never shared
    "no-agreement",  # fewer than the threshold signed these same survivors
    "too-few-devices",  # a step ended with fewer devices than the graph needs
    "too-few-shares",  # a secret has fewer shares than the threshold
    "bad-shares",  # no shares of a secret fit its commitment
    "bad-sum",  # the sum is none that honest devices can make
]

ServerStep: TypeAlias = Literal["adverts", "shares", "inputs", "consents", "unmasking", "done", "aborted"]

T = TypeVar("T")
Fraction = Annotated[float, Range(0, 0.99)]
Signature = Annotated[bytes, Bytes(SIGNATURE_BYTES)]
Key = Annotated[bytes, Bytes(KEY_BYTES)]


@dataclass(frozen=True, kw_only=True)  # no slots: the digest is kept, since every statement of a sum has it
class SumPlan:
    """What all parties must agree on; its digest is in every signature and key."""

    fleet: Name
    task: Name
    round: Annotated[int, Range(1, MAX_ROUND)]
    version: Annotated[int, Range(0, MAX_ROUND)]
    n_params: Annotated[int, Range(1, MAX_PARAMS)]
    clip: Annotated[float, Range(1e-12, 1e12)]
    weight_cap: Annotated[int, Range(1, MAX_EXAMPLES)]
    input_bits: Annotated[int, Range(2, 31)] = 16
    min_cohort: Annotated[int, Range(_MIN_COHORT, _MAX_COHORT)] = _MIN_COHORT
    max_cohort: Annotated[int, Range(_MIN_COHORT, _MAX_COHORT)] = 100
    corrupt_fraction: Fraction = 0.05
    dropout_fraction: Fraction = 0.1
    server: Literal["curious", "lying"] = "lying"
    # Room for the sum of the noise that devices add, in levels on each side of zero; absent without noise. Whoever
    # chooses it says with what probability the noise stays inside: beyond it the sum wraps.
    noise_levels: Annotated[int, Range(1, 2**31)] | None = None
    # Distributed privacy: the noise in every unmasked sum, over the clip, at least. Devices then add their own shares.
    noise_multiplier: Annotated[float, Range(0.01, 1e4)] | None = None

    def __post_init__(self) -> None:
        """Refuse an empty range of cohorts, for readers and makers alike."""
        if self.min_cohort < _MIN_COHORT:
            raise ConfigError(f"a secure sum needs at least {_MIN_COHORT} devices, min_cohort is {self.min_cohort}")
        if self.min_cohort > self.max_cohort:
            raise FieldError("min_cohort: larger than max_cohort")

    @classmethod
    def of(cls, terms: SumTerms, *, fleet: str, task: str, round_: int, version: int, n_params: int) -> SumPlan:
        """Return the plan of one round of a task with ``terms``; both sides make it themselves."""
        facts = {name: getattr(terms, name) for name in terms.__dataclass_fields__}
        return cls(fleet=fleet, task=task, round=round_, version=version, n_params=n_params, **facts)

    @cached_property
    def digest(self) -> bytes:
        """The 32 bytes that stand for this plan."""
        return digest("plan", plain(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """Keys of one device for one sum; the signature covers plan, name and keys."""

    mask_key: Key
    seal_key: Key
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Everybody's names and advert digests (32 bytes each), and the receiver's neighbours' adverts (128 bytes each)."""

    names: Annotated[tuple[Name, ...], Length(_MIN_COHORT, _MAX_COHORT)]
    digests: Annotated[bytes, Length(_MIN_COHORT * KEY_BYTES, _MAX_COHORT * KEY_BYTES)]
    adverts: Annotated[bytes, Length(ADVERT_BYTES, _MAX_COHORT * ADVERT_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """One sealed pair of shares (88 bytes) for each neighbour, and the hash that the self-mask's seed must have."""

    commitment: Key
    sealed: Annotated[bytes, Length(SEALED_BYTES, _MAX_COHORT * SEALED_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Who shared, and the sealed pairs of the receiver's neighbours among them."""

    sharers: Annotated[bytes, _BITMAP]
    sealed: Annotated[bytes, Length(0, _MAX_COHORT * SEALED_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedInput:
    """The masked vector, packed; the signature covers roster, index and sharers."""

    values: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivors:
    """Whose masked vectors are in the sum, and the input signatures of the receiver's neighbours among them."""

    survivors: Annotated[bytes, _BITMAP]
    signatures: Annotated[bytes, Length(0, _MAX_COHORT * SIGNATURE_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """The signature of roster, index, sharers and survivors; a device gives one in its life."""

    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Which neighbours of the receiver consented, and their signatures."""

    consenters: Annotated[bytes, _BITMAP]
    signatures: Annotated[bytes, Length(0, _MAX_COHORT * SIGNATURE_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmask:
    """Whose shares are given (36 bytes each); which of the two it is follows from the survivors."""

    owners: Annotated[bytes, _BITMAP]
    shares: Annotated[bytes, Length(0, _MAX_COHORT * SHARE_BYTES)]


def pack(message: object) -> bytes:
    """Return a message's deterministic bytes."""
    return cbor.dumps(plain(message))


def unpack(cls: type[T], data: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> T:
    """Return the message in ``data``.

    Raises:
        MessageTooLargeError, MalformedMessageError: it is none (the peer's fault).
    """
    try:
        return structure(cls, cbor.loads(data, max_bytes=max_bytes))
    except (FieldError, ConfigError) as error:
        raise MalformedMessageError(f"{cls.__name__}: {error}") from error


def bitmap(indices: Iterable[int], n: int) -> bytes:
    """Return the set as n bits."""
    bits = 0
    for index in indices:
        bits |= 1 << index
    return bits.to_bytes((n + 7) // 8, "little")


def members(data: bytes, n: int) -> frozenset[int]:
    """Return the set in a bitmap of n bits.

    Raises:
        RemoteProtocolError: ``wrong-shape`` or ``bad-encoding`` (the peer's fault).
    """
    if len(data) != (n + 7) // 8:
        raise RemoteProtocolError(
            f"a set of {n} devices has {(n + 7) // 8} bytes, got {len(data)}", reason="wrong-shape"
        )
    bits = int.from_bytes(data, "little")
    if bits >> n:
        raise RemoteProtocolError("a set names devices that are not in the roster", reason="bad-encoding")
    return frozenset(index for index in range(n) if bits >> index & 1)


def cut(data: bytes, owners: Sequence[int], size: int) -> dict[int, bytes]:
    """Return the record of ``size`` bytes of each owner.

    Raises:
        RemoteProtocolError: ``wrong-shape``: another length (the peer's fault).
    """
    if len(data) != size * len(owners):
        raise RemoteProtocolError(
            f"expected {len(owners)} records of {size} bytes, got {len(data)} bytes", reason="wrong-shape"
        )
    return {owner: data[size * i : size * (i + 1)] for i, owner in enumerate(owners)}
