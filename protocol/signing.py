"""Signatures over envelopes: Ed25519 (RFC 8032) and, by whoever has a second key, ML-DSA-65 over the same bytes.

Laws: what is signed names the protocol version, the fleet, the kind and the sender, so a signature made for one purpose
never holds for another; the body is not decoded before its signature held; a peer whose second key is known is believed
only with both signatures, whatever it or somebody on the way leaves out.
"""

from __future__ import annotations

from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol import cbor
from protocol.errors import BadSignatureError
from protocol.messages import PROTOCOL_VERSION, Body, Envelope, Kind, kind_of, pack_body, pack_envelope, unpack_body
from protocol.second_signature import SecondSigningKey, SecondVerifyKey

__all__ = ["PUBLIC_KEY_BYTES", "SERVICE", "Signer", "SigningKey", "VerifyKey", "open_envelope", "sign", "signed_bytes"]

PUBLIC_KEY_BYTES: Final = 32
SERVICE: Final = "service"  # the sender name of the aggregator; no device may be enrolled under it


class VerifyKey:
    """A peer's public key, with the second one that it is known to have."""

    __slots__ = ("_key", "_second", "raw")

    def __init__(self, raw: bytes, *, second: bytes | None = None) -> None:
        """Take the 32 raw bytes, and the 1,952 of the second key if the peer has one.

        Raises:
            ValueError: not so many (whoever configured the key).
        """
        self._key = Ed25519PublicKey.from_public_bytes(raw)
        self._second = None if second is None else SecondVerifyKey(second)
        self.raw = raw

    @property
    def second(self) -> bytes | None:
        """The raw bytes of the second key, or None if this peer is not known to have one."""
        return None if self._second is None else self._second.raw

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether ``signature`` is this key's over ``message``; says nothing of the second."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def verify_second(self, signature: bytes | None, message: bytes) -> bool:
        """Return whether the second signature holds; one is not asked of a peer that is not known to have the key."""
        if self._second is None:
            return True
        return signature is not None and self._second.verify(signature, message)


class Signer(Protocol):
    """Whoever signs in a party's name; a ``SigningKey``, or somebody who asks the holder of one."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature."""


class SigningKey:
    """A party's own private key, with its second one if it has that; its ``repr`` shows nothing of them."""

    __slots__ = ("_key", "_second")

    def __init__(self, raw: bytes, *, second: SecondSigningKey | None = None) -> None:
        """Take the 32 raw private bytes (RFC 8032's secret key)."""
        self._key, self._second = Ed25519PrivateKey.from_private_bytes(raw), second

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key from the operating system's randomness; without a second one."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def raw(self) -> bytes:
        """The 32 private bytes, for a key file."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> VerifyKey:
        """The public half, of the second key too."""
        second = None if self._second is None else self._second.public.raw
        return VerifyKey(self._key.public_key().public_bytes_raw(), second=second)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature."""
        return self._key.sign(message)

    def sign_second(self, message: bytes) -> bytes | None:
        """Return the second signature, or None without a second key."""
        return None if self._second is None else self._second.sign(message)


def signed_bytes(*, fleet: str, kind: Kind, sender: str, body: bytes) -> bytes:
    """Return what a signature covers: the context, then the body, unambiguously (CBOR)."""
    return cbor.dumps(["edgefold", PROTOCOL_VERSION, fleet, kind, sender, body])


def sign(body: Body, *, fleet: str, sender: str, key: SigningKey) -> bytes:
    """Return the signed envelope of ``body``, ready to publish."""
    kind, packed = kind_of(body), pack_body(body)
    message = signed_bytes(fleet=fleet, kind=kind, sender=sender, body=packed)
    signature, second = key.sign(message), key.sign_second(message)
    return pack_envelope(Envelope(kind=kind, sender=sender, body=packed, signature=signature, second_signature=second))


def open_envelope(envelope: Envelope, *, fleet: str, key: VerifyKey) -> Body:
    """Return the body after checking that ``key`` signed this envelope, twice if it is known to have a second key.

    Raises:
        BadSignatureError: it did not (the peer's fault, or somebody else's).
        MalformedMessageError: it did, but the body is not of its kind (the peer's fault).
    """
    message = signed_bytes(fleet=fleet, kind=envelope.kind, sender=envelope.sender, body=envelope.body)
    if not key.verify(envelope.signature, message):
        raise BadSignatureError(f"{envelope.kind} claims to be from {envelope.sender}, but its signature does not hold")
    if not key.verify_second(envelope.second_signature, message):
        how = "is missing" if envelope.second_signature is None else "does not hold"
        raise BadSignatureError(
            f"{envelope.sender} signs twice, and the second signature of this {envelope.kind} {how}"
        )
    return unpack_body(envelope.kind, envelope.body)
