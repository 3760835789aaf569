"""Seals examples on the device's own disk: AES-256-GCM under a key file, each bound to its place in the store.

    <store>/key    32 bytes as hex, mode 0600; a link to another disk is followed, so that the key may lie elsewhere

Laws: a nonce is 96 random bits and used once (NIST SP 800-38D, section 8.2.2: fewer than 2^32 seals under one key, and
a store of a million examples that are each relabelled a thousand times stays below); what was moved to another row does
not open. Against whoever reads the disk and not the key; whoever is this user, or root, reads both.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from host.durable import read_bytes, remove, write_bytes
from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ExampleSeal", "destroy_key", "load_or_make_seal"]

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_MAX_KEY_FILE_BYTES: Final = 256
_PURPOSE: Final = b"edgefold-example-1/"


class ExampleSeal:
    """Seals and opens one store's examples."""

    def __init__(self, key: bytes) -> None:
        """Use ``key``, 32 bytes."""
        self._cipher = AESGCM(key)

    def seal(self, example_id: int, row: dict[str, Any]) -> bytes:
        """Return ``row`` sealed for the place ``example_id``."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, json.dumps(row).encode(), _bound(example_id))

    def open(self, example_id: int, sealed: bytes) -> dict[str, Any]:
        """Return the row.

        Raises:
            StorageError: another key, another place, or damaged.
        """
        try:
            data = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound(example_id))
            row = json.loads(data)
        except (InvalidTag, ValueError, RecursionError) as error:
            raise StorageError(f"example {example_id} does not open: damaged, or sealed under another key") from error
        if not isinstance(row, dict):
            raise StorageError(f"example {example_id} is no row")
        return row


def load_or_make_seal(path: Path) -> ExampleSeal:
    """Return the seal by the key in ``path``, made there first if the file is missing.

    Raises:
        ConfigError: it is readable by others, or no key.
        StorageError: it cannot be read or written.
    """
    try:
        text = read_bytes(path, max_bytes=_MAX_KEY_FILE_BYTES)
    except FileNotFoundError:
        key = os.urandom(_KEY_BYTES)
        write_bytes(path, key.hex().encode() + b"\n", mode=0o600)
        return ExampleSeal(key)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others may read this key; run: chmod 600 {path}")
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError as error:
        raise ConfigError(f"{path}: not a key of an example store") from error
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"{path}: expected {_KEY_BYTES} bytes as hex, got {len(key)}")
    return ExampleSeal(key)


def destroy_key(path: Path) -> None:
    """Overwrite the key once and remove it, so that what was sealed under it opens nowhere any more."""
    target = path.resolve()
    try:
        with target.open("r+b") as file:
            file.write(os.urandom(2 * _KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{target}: cannot be overwritten: {error.strerror}") from error
    remove(target)


def _bound(example_id: int) -> bytes:
    return _PURPOSE + example_id.to_bytes(8, "big")
