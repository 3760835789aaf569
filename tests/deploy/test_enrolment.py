"""Enrolment by the commands that people type, between real processes: init, token, enrol, run, revoke."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from deploy.local import free_ports
from deploy.supervised import Supervised
from edge_agent import enrolment
from edge_agent.adapters.identity import FolderKeyStore, IdentityFolder
from host.bundle_folder import open_bundle
from host.certificates import check_chain, load_key, load_pem, make_request
from host.keys import load_signing_key
from host.link import BrokerAddress, LinkUp, Received
from host.memory import resident_bytes
from host.mqtt_link import MqttLink
from host.tls import TlsFiles, client_context
from protocol import topics
from protocol.enrolment import parse_token, token_text
from protocol.errors import ConfigError
from protocol.messages import Certificate, Join, Renew, unpack_envelope
from protocol.signing import open_envelope, sign

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.serial,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None,
        reason="Mosquitto is not installed",
    ),
]
WAIT_S = 30.0
MAX_IDLE_AGENT_BYTES = 45e6
AGENT = """
[device]
fleet = "demo"
id = "pi"
key = "device.key"
bundles = ["{bundle}"]
[data]
train = "train.jsonl"
"""


def edgefold(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "edgefold", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert code == 0 or len(done.stderr.strip().splitlines()) == 1
    return done.stdout if code == 0 else done.stderr


class Served:
    """A new fleet whose service runs."""

    def __init__(self, folder: Path) -> None:
        self.port, self.claim_port, service_port, self.bundle_port = free_ports(4)
        self.folder, self.config = folder, str(folder / "fleet" / "aggregator.toml")
        ports = ["--port", self.port, "--claim-port", self.claim_port, "--claim-service-port", service_port]
        ports += ["--bundle-port", self.bundle_port]
        place = ["--folder", folder / "fleet", "--fleet", "demo", "--host", "127.0.0.1"]
        edgefold("serve", "init", *map(str, [*place, *ports]))
        self.root_key = (folder / "fleet" / "authority" / "root.key").rename(folder / "offline.key")
        self.process = Supervised("service", ["serve", "--config", self.config], folder / "service.log")
        self.process.start()
        self.seen: list[Any] = []
        self.wait_for("claims-open")

    def wait_for(self, name: str) -> dict[str, Any]:
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            self.seen += self.process.new_events()
            found = [event.facts for event in self.seen if event.name == name]
            if found:
                return found[-1]
            self.process.keep_running()
            time.sleep(0.05)
        raise AssertionError(f"no {name}: {self.seen}")

    def token(self, *arguments: str) -> str:
        (token,) = json.loads(edgefold("devices", "token", "--config", self.config, "--json", *arguments))["tokens"]
        return str(token)

    def devices(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(edgefold("devices", "list", "--config", self.config, "--json"))[
            "devices"
        ]
        return listed

    def link(self, device: Path) -> MqttLink:
        """Return the enrolled device's link."""
        identity = device / "identity"
        files = TlsFiles(root=identity / "root.pem", certificate=identity / "certificate.pem", key=identity / "tls.key")
        address = BrokerAddress(host="127.0.0.1", port=self.port, is_tls=True)
        down = topics.my_down("demo", "pi")
        return MqttLink(address, client_id="x", filters=[down], tls=lambda: client_context(files))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.process.stop()


@pytest.fixture
def device(tmp_path: Path) -> Path:
    folder = tmp_path / "device"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "x", "label": 0}\n')
    (folder / "agent.toml").write_text(AGENT.format(bundle="bundle"))
    return folder


def test_a_device_enrols_runs_and_is_shut_out_when_revoked(served: Served, device: Path, tiny_bundle: Path) -> None:
    (device / "agent.toml").write_text(AGENT.format(bundle=tiny_bundle))
    config = str(device / "agent.toml")
    assert "not enrolled" in edgefold("agent", "run", "--config", config, code=2)
    token = served.token()
    for _ in range(2):  # again is harmless
        assert "pi: enrolled" in edgefold("agent", "enrol", "--config", config, "--token", token)
    assert [(one["device"], one["status"]) for one in served.devices()] == [("pi", "approved")]
    agent = Supervised("agent", ["agent", "run", "--config", config], device / "agent.log")
    agent.start()
    try:
        assert_up(agent)
        time.sleep(1.0)
        resident = resident_bytes(agent.pid or 0)
        assert resident is None or resident < MAX_IDLE_AGENT_BYTES
        edgefold("devices", "revoke", "pi", "--config", served.config)
        served.wait_for("device-revoked")
        downs = wait_for(agent, "link-down", count=2)  # cut off, and not let in again
        assert len(downs) >= 2
    finally:
        agent.stop()
    assert "revoked" in edgefold("agent", "enrol", "--config", config, "--token", token, code=3)
    assert served.devices()[0]["status"] == "revoked"


def test_a_device_without_a_bundle_fetches_what_the_task_needs(tmp_path: Path, device: Path, tiny_bundle: Path) -> None:
    served = Served(tmp_path)
    served.process.stop()
    served.seen.clear()
    with (tmp_path / "fleet" / "aggregator.toml").open("a") as settings:
        settings.write(f'[[task]]\nid = "t"\nbundle = "{tiny_bundle}"\nrounds = 1\ncohort = 1\nmin_cohort = 1\n')
    (device / "agent.toml").write_text(AGENT.replace('bundles = ["{bundle}"]\n', ""))
    config = str(device / "agent.toml")
    served.process.start()
    agent = Supervised("agent", ["agent", "run", "--config", config], device / "agent.log")
    try:
        served.wait_for("claims-open")
        edgefold("agent", "enrol", "--config", config, "--token", served.token())
        assert f":{served.bundle_port}/" in (device / "identity" / "enrolment.toml").read_text()
        agent.start()
        (fetched,) = wait_for(agent, "bundle-fetched")
        assert (
            open_bundle(device / "bundles" / fetched.facts["bundle_id"]).manifest == open_bundle(tiny_bundle).manifest
        )
        served.wait_for("task-finished")
        assert '"event": "bundle-tried"' in (device / "agent.log").read_text()
    finally:
        agent.stop()
        served.process.stop()


def assert_up(agent: Supervised) -> None:
    assert wait_for(agent, "link-up")


def wait_for(process: Supervised, name: str, *, count: int = 1) -> list[Any]:
    found: list[Any] = []
    until = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < until:
        found += [event for event in process.new_events() if event.name == name]
        time.sleep(0.05)
    return found


def test_a_revoked_devices_messages_are_counted_before_the_broker_knows(served: Served, device: Path) -> None:
    config = str(device / "agent.toml")
    edgefold("agent", "enrol", "--config", config, "--token", served.token())
    link = served.link(device)
    try:
        assert isinstance(link.receive(WAIT_S), LinkUp)
        edgefold("devices", "revoke", "pi", "--config", served.config)
        join = Join(task="t", round=1, bundle_id="0" * 64)
        key = load_signing_key(device / "device.key")
        if link.publish(topics.up("demo", "pi", "join"), sign(join, fleet="demo", sender="pi", key=key)):
            assert served.wait_for("update-refused")["reason"] == "revoked"
        served.wait_for("device-revoked")
    finally:
        link.close()


def test_mistakes_with_tokens_are_one_line(served: Served, device: Path) -> None:
    config = str(device / "agent.toml")
    ask = ["agent", "enrol", "--config", config, "--deadline", "8", "--token"]
    token = parse_token(served.token("--expires", "1s"))
    assert "copy the whole line" in edgefold(*ask, token_text(token)[:-9], code=2)
    assert "the token is for fleet" in edgefold(*ask, token_text(replaced(token, fleet="other")), code=2)
    pinned = replaced(token, welcome=bytes(32))
    assert "not the service that the token names" in edgefold(*ask, token_text(pinned), code=3)
    assert "knows no such token" in edgefold(*ask, token_text(replaced(token, secret=bytes(16))), code=3)
    time.sleep(1.0)
    assert "has expired" in edgefold(*ask, token_text(token), code=3)
    assert served.devices() == []
    refused = {event.facts["reason"] for event in served.process.new_events() if event.name == "claim-refused"}
    assert refused == {"unknown-token", "expired-token"}


def replaced(token: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(token, **changes)


def test_the_operator_approves_by_hand(tmp_path: Path, device: Path) -> None:
    served = Served(tmp_path)
    served.process.stop()
    text = (tmp_path / "fleet" / "aggregator.toml").read_text().replace('approve = "token"', 'approve = "manual"')
    (tmp_path / "fleet" / "aggregator.toml").write_text(text)
    served.seen.clear()
    served.process.start()
    try:
        served.wait_for("claims-open")
        ask = ["agent", "enrol", "--config", str(device / "agent.toml"), "--token", served.token()]
        assert "waits for" in edgefold(*ask)
        assert served.devices()[0]["status"] == "pending"
        edgefold("devices", "approve", "pi", "--config", served.config)
        assert "pi: enrolled" in edgefold(*ask)
    finally:
        served.process.stop()


def test_init_refuses_a_folder_that_has_a_fleet(tmp_path: Path) -> None:
    place = ["--folder", str(tmp_path / "f"), "--fleet", "demo", "--host", "127.0.0.1"]
    edgefold("serve", "init", *place)
    before = (tmp_path / "f" / "authority" / "root.pem").read_bytes()
    assert "there is a fleet already" in edgefold("serve", "init", *place, code=2)
    assert (tmp_path / "f" / "authority" / "root.pem").read_bytes() == before
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "f").rglob("*.key")]
    assert modes == [0o600] * 6


def test_a_clock_that_is_far_off_is_one_clear_line(
    served: Served, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = FolderKeyStore(signing_key=device / "device.key", folder=device / "identity")
    identity, token, true_s = IdentityFolder(device / "identity", keys), parse_token(served.token()), time.time
    monkeypatch.setattr(enrolment.time, "time", lambda: true_s() - 2 * 3600)
    with pytest.raises(ConfigError, match=r"this machine's clock says .* set the clock"):
        enrolment.enrol("pi", token, keys=keys, identity=identity, deadline_s=20)
    assert served.wait_for("claim-refused")["reason"] == "clock-skew"
    monkeypatch.setattr(enrolment.time, "time", lambda: true_s() - 0.9 * 3600)
    assert enrolment.enrol("pi", token, keys=keys, identity=identity, deadline_s=20).status == "enrolled"


def test_tls_of_the_fleet_is_1_3(served: Served) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    import socket

    for port in (served.port, served.claim_port):
        with socket.create_connection(("127.0.0.1", port), 5) as plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain)


def test_the_issuing_key_changes_under_a_running_fleet(served: Served, device: Path, tiny_bundle: Path) -> None:
    (device / "agent.toml").write_text(AGENT.format(bundle=tiny_bundle))
    config, authority = str(device / "agent.toml"), served.folder / "fleet" / "authority"
    edgefold("agent", "enrol", "--config", config, "--token", served.token())
    link = served.link(device)
    assert isinstance(link.receive(WAIT_S), LinkUp)
    renew = ["authority", "renew", "--config", served.config]
    assert "root.key: no such key file" in edgefold(*renew, code=2)
    assert "a new issuing key is in use" in edgefold(*renew, "--root-key", str(served.root_key))
    served.wait_for("issuing-key-changed")
    shown = json.loads(edgefold("authority", "show", "--config", served.config, "--json"))
    assert [shown["warning"], len(shown["former"])] == [None, 1]

    key, tls_key = load_signing_key(device / "device.key"), load_key(device / "identity" / "tls.key")
    ask = sign(Renew(request=make_request("pi", tls_key)), fleet="demo", sender="pi", key=key)
    assert link.publish(topics.up("demo", "pi", "renew"), ask)  # on the connection of before
    answer = link.receive(WAIT_S)
    assert isinstance(answer, Received)
    service_key = load_signing_key(served.folder / "fleet" / "service.key").public
    body = open_envelope(unpack_envelope(answer.payload), fleet="demo", key=service_key)
    assert isinstance(body, Certificate)
    (root,), (issuing,) = load_pem(authority / "root.pem"), load_pem(authority / "issuing.pem")
    own, issuer = check_chain(body.chain, root=root, name="pi", key=tls_key.public_key())
    assert (issuer, own.issuer) == (issuing, issuing.subject)
    link.close()

    agent = Supervised("agent", ["agent", "run", "--config", config], device / "agent.log")
    agent.start()  # was away: it comes back with the certificate by the former key, and asks for the next
    try:
        assert_up(agent)
    finally:
        agent.stop()
    assert "pi: enrolled" in edgefold("agent", "enrol", "--config", config, "--token", served.token())
    assert load_pem(device / "identity" / "certificate.pem")[1] == issuing
