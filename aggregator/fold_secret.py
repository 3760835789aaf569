"""What protects a fold's jobs and sums on a cluster that authenticates nobody: AES-256-GCM under one shared secret.

Laws: a job is readable, and a sum believed, only with the secret; a sum is bound to its job, so that one cannot be
given for another. It does not protect the machines: whoever reaches a Ray cluster runs code on it, and who can read the
secret's file there can read the jobs.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from host.durable import make_folder, read_bytes, write_bytes
from protocol.errors import ConfigError, TrustError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FoldSecret"]

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_JOB: Final = b"edgefold fold job"
_SUM: Final = b"edgefold fold sum"


class FoldSecret:
    """Seals jobs and sums; its ``repr`` shows nothing of it."""

    def __init__(self, raw: bytes) -> None:
        """Take 32 bytes."""
        self._cipher = AESGCM(raw)

    @classmethod
    def load(cls, path: Path, *, make: bool = False) -> FoldSecret:
        """Return the secret in ``path``, 64 hex digits; made with mode 0600 if it is missing and ``make`` says so.

        Raises:
            ConfigError: it is missing, or none (the operator's fault).
        """
        if make and not path.exists():
            make_folder(path.parent)
            write_bytes(path, secrets.token_hex(_KEY_BYTES).encode() + b"\n")
        try:
            raw = bytes.fromhex(read_bytes(path, max_bytes=256).decode("ascii").strip())
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such file; copy the service's fold.secret here, mode 0600") from error
        except ValueError as error:
            raise ConfigError(f"{path}: expected 64 hex digits") from error
        if len(raw) != _KEY_BYTES:
            raise ConfigError(f"{path}: expected 64 hex digits")
        return cls(raw)

    def seal_job(self, job: bytes) -> bytes:
        """Return a job that only who has the secret can read."""
        return self._seal(job, _JOB)

    def open_job(self, sealed: bytes) -> bytes:
        """Return a job; errors as in ``open_sum``."""
        return self._open(sealed, _JOB)

    def seal_sum(self, answer: bytes, *, job: bytes) -> bytes:
        """Return the answer to ``job`` (its plain bytes)."""
        return self._seal(answer, _SUM + hashlib.sha256(job).digest())

    def open_sum(self, sealed: bytes, *, job: bytes) -> bytes:
        """Return the answer to ``job``.

        Raises:
            TrustError: made without the secret, for another job, or changed.
        """
        return self._open(sealed, _SUM + hashlib.sha256(job).digest())

    def _seal(self, plain: bytes, purpose: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, purpose)

    def _open(self, sealed: bytes, purpose: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose)
        except (InvalidTag, ValueError) as error:
            raise TrustError("a fold's message does not open under this cluster's secret") from error
