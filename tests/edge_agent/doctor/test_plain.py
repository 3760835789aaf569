"""The way to a broker without certificates, on this machine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from edge_agent.doctor.examination import examine
from host.keys import save_key
from protocol.signing import SigningKey
from tests.attacks.hostile_bundles import make_bundle
from tests.edge_agent.test_cli import GOOD
from tests.host.mosquitto import BINARY, MISSING, Mosquitto, free_port
from tests.host.test_mqtt_link import stranger

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from edge_agent.doctor.finding import Finding


@pytest.fixture
def here(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "bundle")
    save_key(tmp_path / "device.key", SigningKey.generate())
    (tmp_path / "train.jsonl").write_text('{"text": "x", "label": 0}\n')
    return tmp_path


def findings(here: Path, port: int) -> dict[str, Finding]:
    text = GOOD.format(service_key="0" * 64, url=f"mqtt://127.0.0.1:{port}")
    (here / "agent.toml").write_text(text)
    return {one.name: one for one in examine(here / "agent.toml")}


@pytest.mark.skipif(BINARY is None, reason=MISSING)
def test_what_certificates_alone_have_is_skipped_and_blocks_nothing(here: Path) -> None:
    broker = Mosquitto(here).start()
    with contextlib.ExitStack() as after:
        after.callback(broker.stop)
        found = findings(here, broker.port)
    assert {found[name].state for name in ("certificate", "tls")} == {"skipped"}
    assert {found[name].state for name in ("identity", "tcp", "mqtt", "topics")} == {"ok"}
    assert found["announcement"].state == "warning"


def test_a_refused_subscription_is_named_at_topics(here: Path) -> None:
    def refuse(one: socket.socket) -> None:
        if not one.recv(1024):  # the check of TCP says nothing
            return
        one.sendall(bytes([0x20, 3, 0, 0, 0]))  # CONNACK of MQTT 5, section 3.2
        subscribe = one.recv(1024)
        one.sendall(bytes([0x90, 4, *subscribe[2:4], 0, 0x87]))  # SUBACK: not authorized, section 3.9.3
        one.recv(1024)

    with stranger(refuse) as port:
        found = findings(here, port)
    assert (found["mqtt"].state, found["topics"].state, found["announcement"].state) == ("ok", "failed", "skipped")
    assert "access list" in found["topics"].fix


def test_a_missing_key_is_named_with_the_command_that_makes_it(here: Path) -> None:
    (here / "device.key").unlink()
    found = findings(here, free_port())
    assert (found["identity"].state, found["dns"].state) == ("failed", "skipped")
    assert "edgefold agent key" in found["identity"].fix
    assert not (here / "device.key").exists()
