"""Who the virtual devices are: names and Ed25519 keys, all from one secret file, and their lines in the registry.

Laws: the secret stays in the run's folder (mode 0600); the same folder gives the same devices, so a run can be repeated
against the same service; other devices of a registry stay in it.
"""

from __future__ import annotations

import hashlib
import tomllib
from typing import TYPE_CHECKING

from deploy.toml_text import toml_text
from host.config import MAX_REGISTRY_BYTES
from host.durable import read_bytes, write_bytes
from host.keys import load_or_make_signing_key
from protocol.errors import ConfigError
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_identities", "register"]


def make_identities(secret: Path, count: int) -> dict[str, SigningKey]:
    """Return ``count`` devices with their keys, derived from the key file ``secret``, which is made if missing.

    Raises:
        ConfigError: the file is no key, or its folder is missing (the user's fault).
    """
    raw = load_or_make_signing_key(secret).raw
    names = (f"virtual-{i:06}" for i in range(count))
    return {name: SigningKey(hashlib.sha256(raw + name.encode()).digest()) for name in names}


def register(registry: Path, devices: dict[str, SigningKey]) -> None:
    """Write the devices' public keys into a service's registry, beside whoever is there.

    Raises:
        ConfigError: the file is no registry (the user's fault).
        StorageError: it cannot be read or written.
    """
    known: dict[str, str] = {}
    if registry.exists():
        try:
            known = tomllib.loads(read_bytes(registry, max_bytes=MAX_REGISTRY_BYTES).decode()).get("devices", {})
        except ValueError as error:
            raise ConfigError(f"{registry}: not a registry: {error}") from error
    lines = known | {name: key.public.raw.hex() for name, key in devices.items()}
    write_bytes(registry, toml_text({"devices": lines}).encode())
