"""What two devices know and the server does not: X25519 agreement, HKDF-SHA256, AES-256-GCM, Ed25519 signatures.

Laws: every derived key is bound to a label, to the plan (fleet, task, round, version and all parameters, by its digest)
and to the two indices in their order, so a key is good for one purpose in one round; a sealing key seals one message,
so its nonce is constant; private keys come from the caller's entropy, so a restart makes the same ones.

Not post-quantum: X25519 alone protects masks and shares (docs/secure-sum.md, "A hybrid agreement"). Whoever records the
round's traffic and has a quantum computer later can unmask it; the outer seal (``protocol.sealing``) is hybrid.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol import cbor
from protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SEAL_OVERHEAD_BYTES",
    "PrivateKey",
    "agree",
    "derive",
    "digest",
    "open_sealed",
    "private_of",
    "public_of",
    "seal",
    "statement",
]

PrivateKey: TypeAlias = X25519PrivateKey

SEAL_OVERHEAD_BYTES: Final = 16  # GCM's tag
_KEY_BYTES: Final = 32
_NONCE: Final = bytes(12)  # each key seals one message
_DOMAIN: Final = ("edgefold secure sum", 1)


def statement(label: str, *facts: object) -> bytes:
    """Return bytes that say ``facts`` unambiguously, for signing, hashing or deriving under ``label``."""
    return cbor.dumps([*_DOMAIN, label, *facts])


def digest(label: str, *facts: object) -> bytes:
    """Return the SHA-256 of a statement; 32 bytes."""
    return hashlib.sha256(statement(label, *facts)).digest()


def derive(secret: bytes, label: str, *facts: object) -> bytes:
    """Return 32 bytes that only who has ``secret`` can compute, good for this statement alone."""
    return HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=statement(label, *facts)).derive(secret)


def private_of(secret: bytes) -> PrivateKey:
    """Return the X25519 key of 32 private bytes; it costs as much as an agreement, so make it once for many."""
    return X25519PrivateKey.from_private_bytes(secret)


def public_of(secret: bytes) -> bytes:
    """Return the X25519 public key of 32 private bytes."""
    return private_of(secret).public_key().public_bytes_raw()


def agree(private: PrivateKey, public: bytes, label: str, facts: Sequence[object]) -> bytes:
    """Return the 32 bytes that the owners of both keys derive for a statement.

    Raises:
        RemoteProtocolError: ``bad-key``: ``public`` is of low order (the peer's fault).
    """
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise RemoteProtocolError("a device's X25519 key is not usable", reason="bad-key") from error
    return derive(shared, label, *facts)


def seal(key: bytes, plaintext: bytes) -> bytes:
    """Return ``plaintext`` sealed under a key that is used for nothing else."""
    return AESGCM(key).encrypt(_NONCE, plaintext, None)


def open_sealed(key: bytes, sealed: bytes) -> bytes | None:
    """Return what was sealed under ``key``, or None if it was not."""
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, None)
    except InvalidTag:
        return None
