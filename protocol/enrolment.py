"""How a device becomes known: token, welcome, claim and answer, as bytes. The service's rules are in the aggregator.

    operator  token      a text that a person carries: where to ask, whom to believe, a secret that works once
    service   welcome    retained and public: root certificate, the service's keys; believed if its hash is the token's
    device    claim      sealed to the service: token, public keys, certificate request; signed with the device's key
    service   answer     sealed to the device: certificates and the broker, or why not; signed with the service's key

Laws: whoever carries these learns neither token nor device nor certificate; an answer names the very claim that it
answers (hash of the sealed bytes), so that one cannot stand for another; a claim proves that all its private keys exist
(signatures, PKCS #10); a second key of the service, which the token pins with the welcome, must have signed the answer
too; everything is bounded before it is decoded. Repeating a claim must be harmless at the receiver.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

from protocol import cbor
from protocol.errors import BadSignatureError, ConfigError, MalformedMessageError
from protocol.fields import Bytes, FieldError, Length, Name, Range, plain, structure
from protocol.messages import PROTOCOL_VERSION
from protocol.sealing import PUBLIC_KEY_BYTES as SEAL_KEY_BYTES
from protocol.sealing import TaskKey, seal
from protocol.second_signature import SECOND_KEY_BYTES, SECOND_SIGNATURE_BYTES
from protocol.signing import PUBLIC_KEY_BYTES, SigningKey, VerifyKey

__all__ = [
    "CLAIM_REASONS",
    "MAX_CLAIM_BYTES",
    "MAX_WELCOME_BYTES",
    "SECRET_BYTES",
    "Claim",
    "ClaimAnswer",
    "ClaimReason",
    "Token",
    "Welcome",
    "fingerprint",
    "open_answer",
    "open_claim",
    "pack_welcome",
    "parse_token",
    "seal_answer",
    "seal_claim",
    "token_text",
    "unpack_welcome",
]

SECRET_BYTES: Final = 16  # 128 random bits: no guessing, and so a plain SHA-256 is enough to store it by
MAX_CERTIFICATE_BYTES: Final = 4096  # DER; ours have 450 to 650
MAX_CLAIM_BYTES: Final = 16 * 2**10  # a claim has 3.1 kB, an answer of three certificates 3.5; 8.4, 6.8 signed twice
MAX_WELCOME_BYTES: Final = 8 * 2**10
_MAX_TOKEN_CHARS: Final = 1024
_TOKEN_PREFIX: Final = "edgefold1-"  # noqa: S105 - names the format, is no secret

ClaimReason: TypeAlias = Literal[
    "claim-malformed",  # no claim of this version, not sealed to us, or not signed by the key that it brings
    "bad-request",  # the certificate request is not for this device, or its own signature does not hold
    "clock-skew",  # the device's clock is further from ours than certificates are backdated
    "unknown-token",  # never given out, or for another fleet
    "expired-token",
    "used-token",  # another device, or other keys, came with it before
    "name-taken",  # a device of this name has another signing key
    "device-revoked",
]
CLAIM_REASONS: Final[tuple[ClaimReason, ...]] = ClaimReason.__args__  # type: ignore[attr-defined]  # Literal's choices

_Certificate = Annotated[bytes, Length(1, MAX_CERTIFICATE_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What an operator gives to a device; whoever has it may enrol one device of any free name."""

    fleet: Name
    url: Annotated[str, Length(1, 512)]  # of the claim listener, mqtts://HOST:PORT
    welcome: Annotated[bytes, Bytes(32)]  # fingerprint of the welcome: pins the fleet's root and the service's keys
    secret: Annotated[bytes, Bytes(SECRET_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Who the service is; public, and believed by its hash alone."""

    v: Annotated[int, Range(PROTOCOL_VERSION, PROTOCOL_VERSION)] = PROTOCOL_VERSION
    fleet: Name
    root: _Certificate  # DER
    service_key: Annotated[bytes, Bytes(PUBLIC_KEY_BYTES)]  # Ed25519
    second_key: Annotated[bytes, Bytes(SECOND_KEY_BYTES)] | None = None  # ML-DSA-65: the service signs all twice
    claim_key: Annotated[bytes, Bytes(SEAL_KEY_BYTES)]  # HPKE, as a task's


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a device says of itself; only the service reads it."""

    device: Name
    secret: Annotated[bytes, Bytes(SECRET_BYTES)]
    verify_key: Annotated[bytes, Bytes(PUBLIC_KEY_BYTES)]
    second_key: Annotated[bytes, Bytes(SECOND_KEY_BYTES)] | None = None  # from now on the device signs all twice
    answer_key: Annotated[bytes, Bytes(SEAL_KEY_BYTES)]  # made for this claim
    request: _Certificate  # PKCS #10, DER
    unix_s: Annotated[float, Range(0.0, 1e11)]  # the device's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAnswer:
    """What the service decided; only the device reads it."""

    claim: Annotated[bytes, Bytes(32)]  # fingerprint of the sealed claim
    status: Literal["enrolled", "pending", "refused"]
    reason: ClaimReason | None = None
    unix_s: Annotated[float, Range(0.0, 1e11)]  # the service's clock
    broker_url: Annotated[str, Length(1, 512)] | None = None
    bundle_url: Annotated[str, Length(1, 512)] | None = None  # where it fetches bundles, if it can
    chain: Annotated[tuple[_Certificate, ...], Length(1, 4)] | None = None  # the device's first, then its issuers

    def __post_init__(self) -> None:
        """Refuse an answer that says yes and brings nothing."""
        if self.status == "enrolled" and (self.chain is None or self.broker_url is None):
            raise FieldError("chain, broker_url: missing in the answer to an enrolled device")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signed:
    body: Annotated[bytes, Length(1, MAX_CLAIM_BYTES)]
    signature: Annotated[bytes, Bytes(64)]
    second_signature: Annotated[bytes, Bytes(SECOND_SIGNATURE_BYTES)] | None = None


T = TypeVar("T")


def fingerprint(data: bytes) -> bytes:
    """Return the SHA-256 of ``data``."""
    return hashlib.sha256(data).digest()


def token_text(token: Token) -> str:
    """Return the token as one word that a person can paste."""
    packed = base64.urlsafe_b64encode(cbor.dumps(plain(token))).decode("ascii")
    return _TOKEN_PREFIX + packed.rstrip("=")


def parse_token(text: str) -> Token:
    """Return the token in ``text``.

    Raises:
        ConfigError: not a token, or not the whole of one (the user's fault); the text is not repeated.
    """
    text = text.strip()
    word = text.removeprefix(_TOKEN_PREFIX)
    if word == text or len(text) > _MAX_TOKEN_CHARS:
        raise ConfigError(f"the token does not begin with {_TOKEN_PREFIX}: copy the whole line that was printed")
    try:
        data = base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
        return structure(Token, cbor.loads(data, max_bytes=_MAX_TOKEN_CHARS))
    except (binascii.Error, ValueError, FieldError, MalformedMessageError) as error:
        raise ConfigError("the token is damaged or cut off: copy the whole line that was printed") from error


def pack_welcome(welcome: Welcome) -> bytes:
    """Return the bytes to publish; their fingerprint goes into tokens."""
    return cbor.dumps(plain(welcome))


def unpack_welcome(data: bytes) -> Welcome:
    """Return the welcome in ``data``; check its fingerprint first.

    Raises:
        MalformedMessageError: not a welcome (the peer's fault).
    """
    return _unpack(Welcome, data, max_bytes=MAX_WELCOME_BYTES)


def seal_claim(claim: Claim, *, fleet: str, claim_id: str, claim_key: bytes, key: SigningKey) -> bytes:
    """Return ``claim`` signed with the device's key and readable by the service alone."""
    context = _context("edgefold claim", fleet, claim_id)
    return seal(_sign(cbor.dumps(plain(claim)), context, key), public_raw=claim_key, info=context)


def open_claim(sealed: bytes, *, fleet: str, claim_id: str, key: TaskKey) -> Claim:
    """Return the claim in ``sealed``, signed by its ``verify_key`` and, if it brings one, its ``second_key``.

    Raises:
        RemoteProtocolError: not sealed to ``key`` for this claim, malformed, or its signature does not hold.
    """
    if len(sealed) > MAX_CLAIM_BYTES:
        raise MalformedMessageError(f"a claim of {len(sealed)} bytes, at most {MAX_CLAIM_BYTES} are taken")
    context = _context("edgefold claim", fleet, claim_id)
    signed = _unpack(_Signed, key.open(sealed, info=context), max_bytes=MAX_CLAIM_BYTES)
    claim = _unpack(Claim, signed.body, max_bytes=MAX_CLAIM_BYTES)
    _check(signed, context, _key_of(claim))
    return claim


def seal_answer(answer: ClaimAnswer, *, fleet: str, claim_id: str, answer_key: bytes, key: SigningKey) -> bytes:
    """Return ``answer`` signed by the service and readable by the claiming device alone."""
    context = _context("edgefold claim answer", fleet, claim_id)
    return seal(_sign(cbor.dumps(plain(answer)), context, key), public_raw=answer_key, info=context)


def open_answer(
    sealed: bytes, *, fleet: str, claim_id: str, claim: bytes, answer_key: TaskKey, service_key: VerifyKey
) -> ClaimAnswer:
    """Return the service's answer to the sealed ``claim``.

    Raises:
        RemoteProtocolError: not for this device and claim, not the service's, or malformed.
    """
    if len(sealed) > MAX_CLAIM_BYTES:
        raise MalformedMessageError(f"an answer of {len(sealed)} bytes, at most {MAX_CLAIM_BYTES} are taken")
    context = _context("edgefold claim answer", fleet, claim_id)
    signed = _unpack(_Signed, answer_key.open(sealed, info=context), max_bytes=MAX_CLAIM_BYTES)
    _check(signed, context, service_key)
    answer = _unpack(ClaimAnswer, signed.body, max_bytes=MAX_CLAIM_BYTES)
    if answer.claim != fingerprint(claim):
        raise MalformedMessageError("the answer belongs to another claim")
    return answer


def _context(purpose: str, fleet: str, claim_id: str) -> bytes:
    return cbor.dumps([purpose, PROTOCOL_VERSION, fleet, claim_id])


def _sign(body: bytes, context: bytes, key: SigningKey) -> bytes:
    message = cbor.dumps([context, body])
    signed = _Signed(body=body, signature=key.sign(message), second_signature=key.sign_second(message))
    return cbor.dumps(plain(signed))


def _check(signed: _Signed, context: bytes, key: VerifyKey) -> None:
    message = cbor.dumps([context, signed.body])
    if not key.verify(signed.signature, message):
        raise BadSignatureError("the signature inside the seal does not hold")
    if not key.verify_second(signed.second_signature, message):
        raise BadSignatureError("the second signature inside the seal does not hold, or is missing")


def _key_of(claim: Claim) -> VerifyKey:
    try:
        return VerifyKey(claim.verify_key, second=claim.second_key)
    except ValueError as error:
        raise MalformedMessageError("verify_key, second_key: not public keys") from error


def _unpack(cls: type[T], data: bytes, *, max_bytes: int) -> T:
    try:
        return structure(cls, cbor.loads(data, max_bytes=max_bytes))
    except FieldError as error:
        raise MalformedMessageError(f"{cls.__name__}: {error}") from error
