"""The fleet's devices and their public keys: those that enrolled, and those of ``devices.toml``, if there is one.

A changed file is noticed while the service runs; the database comes first, so that a revoked device stays out.

[devices]
kitchen-pi = "64 hex digits of its Ed25519 public key"
[second_keys]
kitchen-pi = "3,904 hex digits of its ML-DSA-65 public key, if it signs twice"
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from aggregator.adapters.changed_file import ChangedFile
from host.config import MAX_REGISTRY_BYTES, load
from host.logs import event
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.fields import FieldError, Hex, Length, Name
from protocol.second_signature import SECOND_KEY_BYTES
from protocol.signing import SERVICE, VerifyKey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aggregator.store_ports import DeviceStore

__all__ = ["DeviceRegistry", "EnrolledDevices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    devices: dict[Name, Hex]
    second_keys: dict[Name, Annotated[str, Length(2 * SECOND_KEY_BYTES, 2 * SECOND_KEY_BYTES)]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        strangers = sorted(self.second_keys.keys() - self.devices.keys())
        if strangers:
            raise FieldError(f"second_keys.{strangers[0]}: there is no such device under [devices]")
        if SERVICE in self.devices:
            raise FieldError(f"devices.{SERVICE}: this name is the aggregator's own")


class EnrolledDevices:
    """Implements ``aggregator.core.intake.Devices`` over the database and, for strangers there, a file."""

    def __init__(self, devices: DeviceStore, file: DeviceRegistry | None) -> None:
        """Look into ``devices`` first."""
        self._devices, self._file = devices, file

    def key_of(self, device: str) -> VerifyKey | None:
        """Return the device's public key, or None for a stranger and for a device that waits for approval.

        Raises:
            RemoteProtocolError: ``revoked``.
        """
        record = self._devices.device(device)
        if record is None:
            return None if self._file is None else self._file.key_of(device)
        if record.status == "revoked":
            raise RemoteProtocolError(f"{device} was revoked", reason="revoked")
        return VerifyKey(record.verify_key, second=record.second_key) if record.status == "approved" else None


class DeviceRegistry:
    """Implements ``aggregator.core.intake.Devices``."""

    def __init__(self, path: Path) -> None:
        """Read ``path``.

        Raises:
            ConfigError: missing, or not a registry.
        """
        self._path = path
        self._file = ChangedFile(path)
        self._keys = _read(path)

    def __len__(self) -> int:
        """How many devices there are."""
        return len(self._keys)

    def names(self) -> list[str]:
        """Return the devices' names."""
        return sorted(self._keys)

    def key_of(self, device: str) -> VerifyKey | None:
        """Return the device's public key, or None for a stranger."""
        self._refresh()
        return self._keys.get(device)

    def _refresh(self) -> None:
        if not self._file.has_changed():
            return
        try:
            self._keys = _read(self._path)
            event("registry-read", devices=len(self._keys))
        except ConfigError as error:  # keep serving the devices we know; the operator sees why
            event("registry-refused", level=logging.ERROR, error=str(error))


def _read(path: Path) -> Mapping[str, VerifyKey]:
    keys, registry = {}, load(_File, path, max_bytes=MAX_REGISTRY_BYTES)
    for device, key in registry.devices.items():
        second = registry.second_keys.get(device)
        try:
            keys[device] = VerifyKey(bytes.fromhex(key), second=None if second is None else bytes.fromhex(second))
        except ValueError as error:
            raise ConfigError(f"{path}: {device}: not public keys, Ed25519 in hex and ML-DSA-65 in hex") from error
    return keys
