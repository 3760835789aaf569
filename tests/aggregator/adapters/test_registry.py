"""The registry of devices: read once, read again when it changes, kept when it is broken."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.registry import DeviceRegistry
from protocol.errors import ConfigError
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from pathlib import Path

KEY = SigningKey(bytes(32)).public.raw


def write(path: Path, *devices: str) -> Path:
    path.write_text("[devices]\n" + "".join(f'"{name}" = "{KEY.hex()}"\n' for name in devices))
    os.utime(path, ns=(0, len(devices)))  # another time for another content, however coarse the clock
    return path


def test_a_device_has_its_key_and_a_stranger_none(tmp_path: Path) -> None:
    registry = DeviceRegistry(write(tmp_path / "devices.toml", "pi-1", "pi-2"))
    key = registry.key_of("pi-1")
    assert key is not None
    assert key.raw == KEY
    assert registry.key_of("pi-3") is None
    assert len(registry) == 2


def test_a_changed_file_is_read_again_and_a_broken_or_missing_one_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "devices.toml", "pi-1")
    registry = DeviceRegistry(path)
    write(path, "pi-1", "pi-2")
    assert registry.key_of("pi-2") is not None
    path.write_text("[devices")
    assert registry.key_of("pi-2") is not None
    path.unlink()
    assert registry.key_of("pi-2") is not None
    write(path, "pi-9")
    assert registry.key_of("pi-2") is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[devices]\nservice = "' + "0" * 64 + '"', "aggregator's own"),
        ('[devices]\npi = "12"', "devices.pi: expected a length of 64"),
        ('[devices]\n"Pi 1" = "' + "0" * 64 + '"', "lower-case"),
        ("", "devices: missing"),
    ],
)
def test_a_wrong_registry_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "devices.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=line):
        DeviceRegistry(path)
