"""Sealing to a task's key: HPKE (RFC 9180), base mode, KEM ML-KEM-768 + X25519, HKDF-SHA256, AES-256-GCM.

Laws: whoever carries a sealed update cannot read it, also not with a quantum computer later, as long as one of the two
KEMs holds; HPKE's ``info`` binds fleet, task, bundle, round, version, device and update id, so a sealed update opens
for that one purpose only. Does not say who sealed: the signature around it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from protocol import cbor
from protocol.errors import SealError
from protocol.messages import PROTOCOL_VERSION

if TYPE_CHECKING:
    from protocol.sum_round import SumStep

__all__ = [
    "PRIVATE_KEY_BYTES",
    "PUBLIC_KEY_BYTES",
    "TaskKey",
    "adapter_binding",
    "binding",
    "can_seal_to",
    "seal",
    "step_binding",
]

_MLKEM_PUBLIC_BYTES: Final = 1184
_MLKEM_SEED_BYTES: Final = 64
PUBLIC_KEY_BYTES: Final = _MLKEM_PUBLIC_BYTES + 32
PRIVATE_KEY_BYTES: Final = _MLKEM_SEED_BYTES + 32

_SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class TaskKey:
    """The private key that opens a task's updates; its ``repr`` shows nothing of it."""

    __slots__ = ("_key", "_mlkem", "_x25519")

    def __init__(self, raw: bytes) -> None:
        """Take ``PRIVATE_KEY_BYTES``: the ML-KEM seed, then the X25519 key.

        Raises:
            ValueError: another length (whoever wrote the key file).
        """
        if len(raw) != PRIVATE_KEY_BYTES:
            raise ValueError(f"a task key has {PRIVATE_KEY_BYTES} bytes, got {len(raw)}")
        self._mlkem = MLKEM768PrivateKey.from_seed_bytes(raw[:_MLKEM_SEED_BYTES])
        self._x25519 = X25519PrivateKey.from_private_bytes(raw[_MLKEM_SEED_BYTES:])
        self._key = hpke.MLKEM768X25519PrivateKey(self._mlkem, self._x25519)

    @classmethod
    def generate(cls) -> TaskKey:
        """Make a new key from the operating system's randomness."""
        return cls(MLKEM768PrivateKey.generate().private_bytes_raw() + X25519PrivateKey.generate().private_bytes_raw())

    @property
    def raw(self) -> bytes:
        """The private bytes, for a key file."""
        return self._mlkem.private_bytes_raw() + self._x25519.private_bytes_raw()

    @property
    def public_raw(self) -> bytes:
        """The public bytes, for ``Work.task_key``."""
        return self._mlkem.public_key().public_bytes_raw() + self._x25519.public_key().public_bytes_raw()

    def open(self, sealed: bytes, *, info: bytes) -> bytes:
        """Return what was sealed to this key under ``info``.

        Raises:
            SealError: sealed to another key, bound to something else, or changed on the way (the peer's fault).
        """
        try:
            return _SUITE.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError) as error:
            raise SealError(
                "it does not open under this key for this purpose (task, round, device... or claim)"
            ) from error


def seal(plaintext: bytes, *, public_raw: bytes, info: bytes) -> bytes:
    """Return ``plaintext`` readable by the task key alone; 1,136 bytes longer than it.

    Raises:
        SealError: ``public_raw`` is no public key of this suite (the service's fault).
    """
    if len(public_raw) != PUBLIC_KEY_BYTES:
        raise SealError(f"a task's public key has {PUBLIC_KEY_BYTES} bytes, got {len(public_raw)}")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public_raw[:_MLKEM_PUBLIC_BYTES])
        x25519 = X25519PublicKey.from_public_bytes(public_raw[_MLKEM_PUBLIC_BYTES:])
        return _SUITE.encrypt(plaintext, hpke.MLKEM768X25519PublicKey(mlkem, x25519), info=info)
    except ValueError as error:
        raise SealError("the task's public key is not valid") from error


def can_seal_to(public_raw: bytes) -> bool:
    """Return whether a stranger's public key is one: a key of low order shows only in use (RFC 7748, section 6.1)."""
    try:
        seal(b"", public_raw=public_raw, info=b"")
    except SealError:
        return False
    return True


def binding(  # noqa: PLR0913 - the seven facts are the point
    *, fleet: str, task: str, bundle_id: str, round_: int, version: int, device: str, update_id: bytes
) -> bytes:
    """Return HPKE's ``info`` for one update."""
    return cbor.dumps(["edgefold update", PROTOCOL_VERSION, fleet, task, bundle_id, round_, version, device, update_id])


def adapter_binding(*, fleet: str, task: str, bundle_id: str, round_: int, version: int, device: str) -> bytes:
    """Return HPKE's ``info`` for the adapter that a device is handed."""
    return cbor.dumps(["edgefold adapter", PROTOCOL_VERSION, fleet, task, bundle_id, round_, version, device])


def step_binding(*, fleet: str, device: str, step: SumStep) -> bytes:
    """Return HPKE's ``info`` for one message of a secure sum."""
    facts = [step.task, step.bundle_id, step.round, step.version, device, step.step, step.update_id]
    return cbor.dumps(["edgefold secure sum step", PROTOCOL_VERSION, fleet, *facts])
