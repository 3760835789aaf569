"""Reads a TOML file once into frozen dataclasses; a wrong key, type or range is one line that names the key."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, TypeVar

from host.durable import read_bytes
from protocol.errors import ConfigError, StorageError
from protocol.fields import FieldError, structure

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_CONFIG_BYTES", "MAX_REGISTRY_BYTES", "load"]

MAX_CONFIG_BYTES = 256 * 1024  # a fleet's settings fit in a few kB
MAX_REGISTRY_BYTES = 16 * 2**20  # a device's line has about 85 bytes, so this is 190,000 of them; 4,000 that sign twice

T = TypeVar("T")


def load(cls: type[T], path: Path, *, max_bytes: int = MAX_CONFIG_BYTES) -> T:
    """Return the configuration in ``path``, of at most ``max_bytes``, as ``cls``.

    Raises:
        ConfigError: no such file, not TOML, an unknown or missing key, a value out of range (the user's fault).
    """
    try:
        values = tomllib.loads(read_bytes(path, max_bytes=max_bytes).decode("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file") from error
    except StorageError as error:
        raise ConfigError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        return structure(cls, values, lenient_floats=True)
    except FieldError as error:
        raise ConfigError(f"{path}: {error}") from error
