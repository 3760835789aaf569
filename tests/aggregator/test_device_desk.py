"""``edgefold devices``, as an operator types it: tokens, list, show, approve, revoke, each mistake one line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.sql_devices import SqlDevices
from aggregator.core.enrolment import DeviceRecord, TokenRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.aggregator.front_door import Ran

SECOND_KEY = bytes(1952)


@pytest.fixture
def config(tmp_path: Path, run: Callable[..., Ran], empty_database: Path) -> Path:
    """A new fleet's settings, with a device that waits."""
    made = run("serve", "init", "--folder", tmp_path / "fleet", "--fleet", "f", "--host", "127.0.0.1")
    assert made.code == 0, made.err
    state = tmp_path / "fleet" / "state"
    state.mkdir()
    (state / "aggregator.db").write_bytes(empty_database.read_bytes())
    devices = SqlDevices(state / "aggregator.db")
    token = TokenRecord(digest=bytes(32), expires_unix_s=2e9)
    devices.add_tokens([token])
    waiting = DeviceRecord(device="pi", verify_key=bytes(32), status="pending", since_unix_s=0.0, second_key=SECOND_KEY)
    devices.use_token(token, waiting, None)
    devices.close()
    return tmp_path / "fleet" / "aggregator.toml"


def test_a_waiting_device_is_listed_shown_approved_and_revoked(config: Path, run: Callable[..., Ran]) -> None:
    assert run("devices", "list", "--config", config).out.split() == ["pi", "pending"]
    shown = json.loads(run("devices", "show", "pi", "--config", config, "--json").out)
    assert (shown["status"], shown["signs_twice"], shown["certificate_ends"]) == ("pending", True, None)
    assert "approved" in run("devices", "approve", "pi", "--config", config).out
    assert json.loads(run("devices", "list", "--config", config, "--json").out)["devices"][0]["status"] == "approved"
    assert "revoked" in run("devices", "revoke", "pi", "--config", config).out
    again = run("devices", "approve", "pi", "--config", config)
    assert (again.code, "for good" in again.line) == (2, True)


def test_mistakes_are_one_line(config: Path, run: Callable[..., Ran]) -> None:
    for verb in ("show", "approve", "revoke"):
        said = run("devices", verb, "nobody", "--config", config)
        assert (said.code, "no device nobody has enrolled" in said.line) == (2, True)
    assert run("devices", "token", "--count", "2", "--expires", "90x", "--config", config).code == 2


def test_tokens_are_given_by_number_and_expire(config: Path, run: Callable[..., Ran]) -> None:
    said = json.loads(run("devices", "token", "--count", "3", "--expires", "24h", "--config", config, "--json").out)
    assert len(set(said["tokens"])) == 3
    assert all(token.startswith("edgefold1-") for token in said["tokens"])


def test_the_authoritys_keys_are_shown(config: Path, run: Callable[..., Ran]) -> None:
    said = run("authority", "show", "--config", config)
    assert [line.split()[:2] for line in said.out.splitlines()] == [["root", "until"], ["issuing", "until"]]
