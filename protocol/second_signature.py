"""ML-DSA-65 (FIPS 204), the optional second signature beside Ed25519: it holds where quantum computers forge the first.

Laws: a second key adds and never replaces; whoever knows a peer's second key takes nothing of it that this key did not
sign too (``protocol.signing``), so that leaving the signature out gains nothing. A private key is its 32-byte seed.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

__all__ = ["SECOND_KEY_BYTES", "SECOND_SIGNATURE_BYTES", "SecondSigningKey", "SecondVerifyKey"]

SECOND_KEY_BYTES: Final = 1952  # FIPS 204, table 2
SECOND_SIGNATURE_BYTES: Final = 3309


class SecondVerifyKey:
    """A peer's ML-DSA-65 public key."""

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        """Take the 1,952 raw bytes.

        Raises:
            ValueError: not so many (whoever configured the key).
        """
        self._key = MLDSA65PublicKey.from_public_bytes(raw)
        self.raw = raw

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether ``signature`` is this key's over ``message``."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SecondSigningKey:
    """A party's own ML-DSA-65 private key; its ``repr`` shows nothing of it."""

    __slots__ = ("_key",)

    def __init__(self, raw: bytes) -> None:
        """Take the seed of 32 bytes (FIPS 204, algorithm 6).

        Raises:
            ValueError: not 32 bytes.
        """
        self._key = MLDSA65PrivateKey.from_seed_bytes(raw)

    @classmethod
    def generate(cls) -> SecondSigningKey:
        """Make a new key from the operating system's randomness."""
        return cls(MLDSA65PrivateKey.generate().private_bytes_raw())

    @property
    def raw(self) -> bytes:
        """The seed, for a key file."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> SecondVerifyKey:
        """The public half."""
        return SecondVerifyKey(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the 3,309-byte signature; drawn anew each time, so that it is different each time."""
        return self._key.sign(message)
