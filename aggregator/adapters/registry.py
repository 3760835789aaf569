"""The fleet's devices and their public keys, from ``devices.toml``; a changed file is noticed while the service runs.

[devices]
kitchen-pi = "64 hex digits of its Ed25519 public key"
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from host.config import load
from host.logs import event
from protocol.errors import ConfigError
from protocol.fields import FieldError, Hex, Name
from protocol.signing import SERVICE, VerifyKey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["DeviceRegistry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    devices: dict[Name, Hex]

    def __post_init__(self) -> None:
        if SERVICE in self.devices:
            raise FieldError(f"devices.{SERVICE}: this name is the aggregator's own")


class DeviceRegistry:
    """Implements ``aggregator.core.intake.Devices``."""

    def __init__(self, path: Path) -> None:
        """Read ``path``.

        Raises:
            ConfigError: missing, or not a registry.
        """
        self._path = path
        self._stamp = self._stamp_now()
        self._keys = _read(path)

    def __len__(self) -> int:
        """How many devices there are."""
        return len(self._keys)

    def key_of(self, device: str) -> VerifyKey | None:
        """Return the device's public key, or None for a stranger."""
        self._refresh()
        return self._keys.get(device)

    def _refresh(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _read(self._path)
            event("registry-read", devices=len(self._keys))
        except ConfigError as error:  # keep serving the devices we know; the operator sees why
            event("registry-refused", level=logging.ERROR, error=str(error))

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size


def _read(path: Path) -> Mapping[str, VerifyKey]:
    keys = {}
    for device, key in load(_File, path).devices.items():
        try:
            keys[device] = VerifyKey(bytes.fromhex(key))
        except ValueError as error:
            raise ConfigError(f"{path}: devices.{device}: not an Ed25519 public key") from error
    return keys
