"""Key files: raw bytes as hex, mode 0600, made once. Whoever can read the file is the party.

NAME              Ed25519
NAME.mldsa65      the second key beside it, ML-DSA-65, if the party signs twice
NAME.mldsa65.pub  its public half, which does not fit on a line that people copy
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, TypeVar

from host.durable import read_bytes, write_bytes
from protocol.errors import ConfigError, StorageError
from protocol.sealing import TaskKey
from protocol.second_signature import SECOND_KEY_BYTES, SecondSigningKey
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "load_or_make_signing_key",
    "load_second_public",
    "load_signing_key",
    "load_task_key",
    "save_key",
    "second_key_file",
]

_MAX_KEY_FILE_BYTES = 4096

K = TypeVar("K", SigningKey, SecondSigningKey, TaskKey)


def second_key_file(path: Path) -> Path:
    """Return where the second key beside the signing key in ``path`` is."""
    return path.with_name(f"{path.name}.mldsa65")


def save_key(path: Path, key: SigningKey | SecondSigningKey | TaskKey) -> None:
    """Write ``key`` durably, readable by its owner alone."""
    write_bytes(path, key.raw.hex().encode() + b"\n", mode=0o600)


def load_signing_key(path: Path) -> SigningKey:
    """Return the Ed25519 key in ``path``, with the second key if one lies beside it.

    Raises:
        ConfigError: missing, readable by others, or no such key.
    """
    key, second = _parse(SigningKey, path), second_key_file(path)
    return SigningKey(key.raw, second=_parse(SecondSigningKey, second)) if second.exists() else key


def load_or_make_signing_key(path: Path, *, with_second: bool = False) -> SigningKey:
    """Return the Ed25519 key in ``path``, made there first if it is missing; likewise the second key, if asked for.

    Raises:
        ConfigError: as for ``load_signing_key``, or its folder is missing.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder for the key")
    if not path.exists():
        save_key(path, SigningKey.generate())
    if with_second and not second_key_file(path).exists():
        save_key(second_key_file(path), SecondSigningKey.generate())
    return load_signing_key(path)


def load_second_public(path: Path) -> bytes:
    """Return the second key's public half in ``path``, raw.

    Raises:
        ConfigError: missing, or no such key.
    """
    try:
        raw = bytes.fromhex(read_bytes(path, max_bytes=_MAX_KEY_FILE_BYTES).decode("ascii").strip())
    except (ValueError, OSError, StorageError) as error:
        raise ConfigError(f"{path}: no such public key file") from error
    if len(raw) != SECOND_KEY_BYTES:
        raise ConfigError(f"{path}: expected an ML-DSA-65 public key, {SECOND_KEY_BYTES} bytes as hex")
    return raw


def load_task_key(path: Path) -> TaskKey:
    """Return the HPKE key in ``path``.

    Raises:
        ConfigError: as for ``load_signing_key``.
    """
    return _parse(TaskKey, path)


def _parse(cls: type[K], path: Path) -> K:
    try:
        data = read_bytes(path, max_bytes=_MAX_KEY_FILE_BYTES)
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{path}: a private key that others can read; run: chmod 600 {path}")
        return cls(bytes.fromhex(data.decode("ascii").strip()))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such key file") from error
    except StorageError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: not a key file of this kind") from error
