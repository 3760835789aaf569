"""Key files: raw bytes as hex, mode 0600, made once. Whoever can read the file is the party."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, TypeVar

from host.durable import read_bytes, write_bytes
from protocol.errors import ConfigError, StorageError
from protocol.sealing import TaskKey
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load_or_make_signing_key", "load_signing_key", "load_task_key", "save_key"]

_MAX_KEY_FILE_BYTES = 4096

K = TypeVar("K", SigningKey, TaskKey)


def save_key(path: Path, key: SigningKey | TaskKey) -> None:
    """Write ``key`` durably, readable by its owner alone."""
    write_bytes(path, key.raw.hex().encode() + b"\n", mode=0o600)


def load_signing_key(path: Path) -> SigningKey:
    """Return the Ed25519 key in ``path``.

    Raises:
        ConfigError: missing, readable by others, or no such key.
    """
    return _parse(SigningKey, path)


def load_or_make_signing_key(path: Path) -> SigningKey:
    """Return the Ed25519 key in ``path``, made there first if the file is missing.

    Raises:
        ConfigError: as for ``load_signing_key``, or its folder is missing.
    """
    if not path.exists():
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent}: no such folder for the key")
        save_key(path, SigningKey.generate())
    return load_signing_key(path)


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
