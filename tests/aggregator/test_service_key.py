"""The service's key file: made once; a second key that was ever made is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.registry import DeviceRegistry
from aggregator.service_key import service_key
from host.keys import load_second_public, second_key_file
from protocol.errors import ConfigError
from protocol.second_signature import SecondSigningKey
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from pathlib import Path


def test_a_second_key_is_made_when_the_settings_ask_for_it_and_published_beside(tmp_path: Path) -> None:
    path = tmp_path / "service.key"
    first = service_key(path, with_second=False)
    both = service_key(path, with_second=True)
    assert (both.raw, first.public.second) == (first.raw, None)
    assert service_key(path, with_second=True).public.second == both.public.second
    assert load_second_public(tmp_path / "service.key.mldsa65.pub") == both.public.second
    assert second_key_file(path).stat().st_mode & 0o777 == 0o600


def test_a_service_does_not_go_back_to_one_signature_by_its_settings_alone(tmp_path: Path) -> None:
    service_key(tmp_path / "service.key", with_second=True)
    with pytest.raises(ConfigError, match=r"post_quantum_signatures: .* refuse what is not signed by it"):
        service_key(tmp_path / "service.key", with_second=False)
    with pytest.raises(ConfigError, match="does not exist"):
        service_key(tmp_path / "no" / "service.key", with_second=False)


def test_a_registry_file_names_second_keys_of_its_devices_alone(tmp_path: Path) -> None:
    path, first = tmp_path / "devices.toml", SigningKey.generate().public.raw
    second = SecondSigningKey.generate().public.raw
    path.write_text(f'[devices]\na = "{first.hex()}"\nb = "{first.hex()}"\n[second_keys]\na = "{second.hex()}"\n')
    registry = DeviceRegistry(path)
    a, b = registry.key_of("a"), registry.key_of("b")
    assert a is not None
    assert b is not None
    assert (a.second, b.second) == (second, None)
    path.write_text(f'[devices]\na = "{first.hex()}"\n[second_keys]\nc = "{second.hex()}"\n')
    with pytest.raises(ConfigError, match=r"second_keys\.c"):
        DeviceRegistry(path)
    path.write_text(f'[devices]\na = "{first.hex()}"\n[second_keys]\na = "{"zz" * 1952}"\n')
    with pytest.raises(ConfigError, match="a: not public keys"):
        DeviceRegistry(path)
