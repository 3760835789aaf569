"""Ed25519 signatures (RFC 8032) over envelopes.

Laws: what is signed names the protocol version, the fleet, the kind and the sender, so a signature made for one purpose
never holds for another; the body is not decoded before its signature held.
"""

from __future__ import annotations

from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol import cbor
from protocol.errors import BadSignatureError
from protocol.messages import PROTOCOL_VERSION, Body, Envelope, Kind, kind_of, pack_body, pack_envelope, unpack_body

__all__ = ["PUBLIC_KEY_BYTES", "SERVICE", "Signer", "SigningKey", "VerifyKey", "open_envelope", "sign", "signed_bytes"]

PUBLIC_KEY_BYTES: Final = 32
SERVICE: Final = "service"  # the sender name of the aggregator; no device may be enrolled under it


class VerifyKey:
    """A peer's public key."""

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        """Take the 32 raw bytes.

        Raises:
            ValueError: not 32 bytes (whoever configured the key).
        """
        self._key = Ed25519PublicKey.from_public_bytes(raw)
        self.raw = raw

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether ``signature`` is this key's over ``message``."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class Signer(Protocol):
    """Whoever signs in a party's name; a ``SigningKey``, or somebody who asks the holder of one."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature."""


class SigningKey:
    """A party's own private key; its ``repr`` shows nothing of it."""

    __slots__ = ("_key",)

    def __init__(self, raw: bytes) -> None:
        """Take the 32 raw private bytes (RFC 8032's secret key)."""
        self._key = Ed25519PrivateKey.from_private_bytes(raw)

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def raw(self) -> bytes:
        """The 32 private bytes, for a key file."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature."""
        return self._key.sign(message)


def signed_bytes(*, fleet: str, kind: Kind, sender: str, body: bytes) -> bytes:
    """Return what a signature covers: the context, then the body, unambiguously (CBOR)."""
    return cbor.dumps(["edgefold", PROTOCOL_VERSION, fleet, kind, sender, body])


def sign(body: Body, *, fleet: str, sender: str, key: SigningKey) -> bytes:
    """Return the signed envelope of ``body``, ready to publish."""
    kind, packed = kind_of(body), pack_body(body)
    signature = key.sign(signed_bytes(fleet=fleet, kind=kind, sender=sender, body=packed))
    return pack_envelope(Envelope(kind=kind, sender=sender, body=packed, signature=signature))


def open_envelope(envelope: Envelope, *, fleet: str, key: VerifyKey) -> Body:
    """Return the body after checking that ``key`` signed this envelope.

    Raises:
        BadSignatureError: it did not (the peer's fault, or somebody else's).
        MalformedMessageError: it did, but the body is not of its kind (the peer's fault).
    """
    message = signed_bytes(fleet=fleet, kind=envelope.kind, sender=envelope.sender, body=envelope.body)
    if not key.verify(envelope.signature, message):
        raise BadSignatureError(f"{envelope.kind} claims to be from {envelope.sender}, but its signature does not hold")
    return unpack_body(envelope.kind, envelope.body)
