from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from deploy.flash.settings import (
    agent_settings,
    load_agent_tables,
    load_ssh_keys,
    load_wifi,
    make_setup,
    read_token,
)
from protocol.enrolment import Token, token_text
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = token_text(Token(fleet="home", url="mqtts://broker.example:8884", welcome=bytes(32), secret=bytes(16)))


def test_the_fleet_is_the_tokens(tmp_path: Path) -> None:
    examples = tmp_path / "reviews.csv"
    examples.write_text("text,label\n")
    setup = make_setup(device="pi", token=f" {TOKEN}\n", examples=examples, tables={"trainer": {"threads": 2}})
    settings = tomllib.loads(agent_settings(setup))
    assert setup.fleet == "home"
    assert settings["data"] == {"train": "examples.csv"}
    assert settings["trainer"] == {"threads": 2}
    assert TOKEN not in repr(setup)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"device": "Kitchen Pi"}, "device"),
        ({"token": "edgefold1-nonsense"}, "token"),
        ({"data_mb": 1}, "data_mb"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_setup(**{"device": "pi", "token": TOKEN, **changes})


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"manifest.json is missing"):
        make_setup(device="pi", token=TOKEN, bundles=(tmp_path,))


def test_a_passphrase_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wifi.toml"
    path.write_text('ssid = "home"\npassphrase = "correct horse"\ncountry = "NL"\n')
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_wifi(path)
    path.chmod(0o600)
    assert load_wifi(path).ssid == "home"
    assert "correct" not in repr(load_wifi(path))


@pytest.mark.parametrize("line", ['country = "nl"', 'country = "NL"\nextra = 1'])
def test_wifi_settings_are_checked(tmp_path: Path, line: str) -> None:
    path = tmp_path / "wifi.toml"
    path.write_text(f'ssid = "home"\npassphrase = "correct horse"\n{line}\n')
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"country|extra"):
        load_wifi(path)


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match="expected public keys"):
        load_ssh_keys(path)
    path.write_text("# mine\nssh-ed25519 AAAA owner\n\n")
    assert load_ssh_keys(path) == "ssh-ed25519 AAAA owner\n"


def test_settings_cannot_say_who_the_device_is(tmp_path: Path) -> None:
    path = tmp_path / "more.toml"
    path.write_text('[device]\nfleet = "other"\n')
    with pytest.raises(ConfigError, match=r"device.fleet: comes from the token"):
        load_agent_tables(path)


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(path)
