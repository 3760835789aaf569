"""Each illness of a device in a fleet with a real broker is named at its hop, with a fix, and nothing is changed."""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.device_folder import DeviceFolder
from edge_agent.doctor import machine
from host.link import BrokerAddress, LinkUp, Received
from host.mqtt_link import MqttLink
from protocol import topics
from protocol.signing import SigningKey
from tests.aggregator.secure_fleet import DAY_S, FLEET, WAIT_S
from tests.edge_agent.doctor.patient import NAME, Patient
from tests.host.mosquitto import BINARY, MISSING, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(BINARY is None, reason=MISSING)
LATER = ("tls", "mqtt", "topics", "announcement")


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with contextlib.closing(Patient(tmp_path)) as one:
        yield one


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_way_to_the_service_is_well_and_looking_changes_no_file(patient: Patient) -> None:
    patient.announce(patient.bundle_id)
    before = files_of(patient.here)
    found = patient.findings()
    others = {name: one.state for name, one in found.items() if name not in {"engine", "memory", "download", "privacy"}}
    assert others == dict.fromkeys(others, "ok")
    assert found["privacy"].state == "skipped"  # no noisy training, and no budget for it
    assert "t is open, round 3; signed by the service" in found["announcement"].what
    assert files_of(patient.here) == before
    assert found["engine"].state == "failed"  # a trainer was started: this bundle is one of bytes alone
    assert "tokenizer" in found["engine"].what


def test_what_waits_for_the_agent_still_waits_after_the_doctor(patient: Patient) -> None:
    filters = [topics.my_down(FLEET, NAME), topics.all_announcements(FLEET)]
    assert patient.states()["mqtt"] == "ok"  # the session is there from now on, as after an agent's start
    service = patient.fleet.service()
    assert service.publish(topics.down(FLEET, NAME, "receipt"), b"for the agent")
    assert patient.states()["mqtt"] == "ok"
    context = patient.fleet.context(NAME)
    address = BrokerAddress(host="127.0.0.1", port=patient.fleet.broker.port, is_tls=True)
    agent = MqttLink(address, client_id=NAME, filters=filters, tls=lambda: context)
    patient.fleet.links.append(agent)
    assert isinstance(agent.receive(WAIT_S), LinkUp)
    event = agent.receive(WAIT_S)
    assert isinstance(event, Received)
    assert event.payload == b"for the agent"


def test_a_running_agent_keeps_its_connection(patient: Patient) -> None:
    link = patient.fleet.device(NAME)
    folder = DeviceFolder(patient.here / "state")
    try:
        found = patient.findings()
    finally:
        folder.close()
    assert found["tls"].state == "ok"
    assert [found[name].state for name in ("mqtt", "topics", "announcement")] == ["skipped"] * 3
    assert link.is_up
    assert link.receive(0.5) is None


def test_a_broker_that_is_down_is_named_at_tcp(patient: Patient) -> None:
    patient.enrol("127.0.0.1", free_port())
    found = patient.findings()
    assert found["tcp"].state == "failed"
    assert "broker running" in found["tcp"].fix
    assert {found[name].state for name in LATER} == {"skipped"}


def test_a_name_without_an_address_is_named_at_dns(patient: Patient) -> None:
    patient.enrol("nowhere.invalid", 8883)  # RFC 2606: never has an address
    found = patient.findings()
    assert (found["dns"].state, found["tcp"].state) == ("failed", "skipped")


def test_another_host_name_than_the_certificates_is_named_at_tls(patient: Patient) -> None:
    patient.enrol("localhost", patient.fleet.broker.port)
    found = patient.findings()
    assert (found["tcp"].state, found["tls"].state, found["mqtt"].state) == ("ok", "failed", "skipped")
    assert "not for localhost" in found["tls"].what


def test_an_expired_certificate_is_named_before_the_broker_is_asked(tmp_path: Path) -> None:
    patient = Patient(tmp_path, life_s=3600, ago_s=7200)
    with contextlib.closing(patient):
        found = patient.findings()
    assert "expired" in found["certificate"].what
    assert "agent enrol" in found["certificate"].fix
    assert (found["certificate"].state, found["tcp"].state, found["tls"].state) == ("failed", "ok", "skipped")


def test_another_fleets_certificate_is_refused_at_tls(patient: Patient, tmp_path: Path) -> None:
    other = Patient(tmp_path / "other")
    other.close()
    for name in ("certificate.pem", "tls.key"):
        shutil.copy2(other.here / "identity" / name, patient.here / "identity" / name)
    found = patient.findings()
    assert found["tls"].state == "failed"
    assert "who signed the device's certificate" in found["tls"].what


def test_a_revoked_device_is_told_so_at_tls(patient: Patient) -> None:
    patient.fleet.authority.write_crl([int(patient.fleet.issued[NAME].serial, 16)], unix_s=time.time())
    patient.fleet.broker.reload()
    time.sleep(1.0)
    found = patient.findings()
    assert (found["certificate"].state, found["tls"].state, found["mqtt"].state) == ("ok", "failed", "skipped")
    assert "revoked" in found["tls"].what


def test_a_clock_that_is_behind_is_named_before_the_broker_is_asked(tmp_path: Path) -> None:
    with contextlib.closing(Patient(tmp_path, ago_s=-2 * DAY_S)) as patient:
        found = patient.findings()
    assert (found["clock"].state, found["tls"].state) == ("failed", "skipped")
    assert "timedatectl" in found["clock"].fix


def test_a_bundle_with_a_changed_byte(patient: Patient) -> None:
    path = patient.here / "bundle" / "train.onnx"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    found = patient.findings()
    assert found["bundles"].state == "failed"
    assert "not what the manifest says" in found["bundles"].what
    assert (found["engine"].state, found["mqtt"].state) == ("skipped", "ok")


@pytest.mark.parametrize("content", [None, "", "not json\n"])
def test_data_that_is_missing_empty_or_of_no_format(patient: Patient, content: str | None) -> None:
    path = patient.here / "train.jsonl"
    path.unlink() if content is None else path.write_text(content)
    found = patient.findings()
    assert (found["data"].state, found["engine"].state, found["mqtt"].state) == ("failed", "skipped", "ok")


def test_an_announcement_by_another_key_or_for_another_bundle(patient: Patient) -> None:
    assert patient.findings()["announcement"].what == "the service has announced nothing"
    patient.announce("a" * 64)
    found = patient.findings()["announcement"]
    assert (found.state, "no bundle here" in found.what) == ("warning", True)
    patient.announce(patient.bundle_id, key=SigningKey.generate())
    found = patient.findings()["announcement"]
    assert (found.state, "signature does not hold" in found.what) == ("failed", True)


def test_a_device_that_never_enrolled_and_a_file_that_is_no_configuration(patient: Patient) -> None:
    (patient.here / "identity" / "enrolment.toml").unlink()
    found = patient.findings()
    assert (found["identity"].state, found["dns"].state, found["bundles"].state) == ("failed", "skipped", "ok")
    patient.config.write_text("[devise]", "utf-8")
    states = patient.states()
    assert states.pop("config") == "failed"
    assert set(states.values()) == {"skipped"}


def test_an_issuer_that_ends_soon_is_named_with_who_can_change_it(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_ISSUERS_WARN_S", 6 * 365 * 86_400.0)
    found = patient.findings()["certificate"]
    assert found.state == "warning"
    assert "no device's holds for longer" in found.what
    assert "edgefold authority renew" in found.fix
