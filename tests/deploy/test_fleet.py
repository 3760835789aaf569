"""A whole fleet of real processes on loopback: the happy way, on each broker, and what crosses the broker."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from deploy.local import FleetSpec, LocalFleet
from host.keys import load_task_key
from host.memory import resident_bytes
from protocol.messages import Update, unpack_content, unpack_envelope
from protocol.plan import Codec, Optimizer, Plan
from protocol.sealing import binding
from protocol.signing import VerifyKey, open_envelope

if TYPE_CHECKING:
    from deploy.local import BrokerKind
    from deploy.supervised import FleetEvent

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]

PLAN = Plan(epochs=4, batch_size=16, max_tokens=32, optimizer=Optimizer(learning_rate=5e-3), codec=Codec())
PRIVATE = ("device.key", "device.key.mldsa65", "identity/tls.key")


def spec(tmp_path: Path, bundle: Path, devices: dict[str, Path], **changes: Any) -> FleetSpec:
    settings = {"folder": tmp_path / "fleet", "bundle": bundle, "devices": devices, "plan": PLAN, "rounds": 3}
    return FleetSpec(**{**settings, "keep_updates": True, **changes})


def show(fleet: LocalFleet) -> dict[str, Any]:
    command = ["task", "show", fleet.spec.task, "--config", str(fleet.aggregator_config), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgefold", *command], check=True, capture_output=True, text=True, timeout=60
    )
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def verify(fleet: LocalFleet) -> subprocess.CompletedProcess[str]:
    command = ["task", "verify", fleet.spec.task, "--config", str(fleet.aggregator_config), "--json"]
    return subprocess.run(
        [sys.executable, "-m", "edgefold", *command], check=False, capture_output=True, text=True, timeout=60
    )


def run_to_end(fleet: LocalFleet, *, last_version: int, evaluated: bool) -> list[FleetEvent]:
    events = []
    for event in fleet.events(deadline_s=200):
        events.append(event)
        finished = any(one.name == "task-finished" for one in events)
        last = any(one.name == "version-evaluated" and one.facts["version"] == last_version for one in events)
        if finished and (last or not evaluated):
            return events
    pytest.fail(f"not finished; the last events: {events[-10:]}")


@pytest.mark.parametrize("broker", ["mosquitto", "embedded"])
def test_four_devices_better_the_model_on_each_broker(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path], test_set: Path, broker: BrokerKind
) -> None:
    if broker == "mosquitto" and shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        pytest.skip("mosquitto is not installed")
    with LocalFleet(spec(tmp_path, tiny_bundle, devices, sets={"all": test_set}, broker=broker)) as fleet:
        events = run_to_end(fleet, last_version=3, evaluated=True)
        assert fleet.broker_kind == broker
    accuracy = {e.facts["version"]: e.facts["pooled_accuracy"] for e in events if e.name == "version-evaluated"}
    assert accuracy[3] > 0.9
    assert accuracy[3] > accuracy[0] + 0.2
    assert verify(fleet).returncode == 0
    folded = [event.facts for event in events if event.name == "version-folded"]
    assert [facts["n_updates"] for facts in folded] == [4, 4, 4]
    assert all(process.n_restarts == 0 for process in fleet.processes.values())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_an_idle_agent_is_small_and_holds_no_runtime_not_even_numpy(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path]
) -> None:
    with LocalFleet(spec(tmp_path, tiny_bundle, devices, rounds=1)) as fleet:
        run_to_end(fleet, last_version=1, evaluated=False)
        for device in devices:
            pid = fleet.processes[device].pid
            assert pid is not None
            mapped = Path(f"/proc/{pid}/maps").read_text()
            assert "cryptography" in mapped  # it is the process that seals
            for runtime in ("onnxruntime", "numpy", "tokenizers", "torch", "sqlalchemy"):
                assert runtime not in mapped
            resident = resident_bytes(pid)
            assert resident is not None
            assert resident <= 45 * 2**20


@pytest.mark.skipif(shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None, reason="no Mosquitto")
def test_a_secure_fleet_enrols_by_tokens_and_betters_the_model_over_mutual_tls(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path], test_set: Path
) -> None:
    plan = spec(tmp_path, tiny_bundle, devices, sets={"all": test_set}, rounds=2, secure=True, post_quantum=True)
    with LocalFleet(plan) as fleet:
        events = run_to_end(fleet, last_version=2, evaluated=True)
    assert fleet.broker_kind == "mosquitto"
    assert {event.facts["bytes"] > 3300 for event in events if event.name == "join-sent"} == {True}  # signed twice
    accuracy = {e.facts["version"]: e.facts["pooled_accuracy"] for e in events if e.name == "version-evaluated"}
    assert accuracy[2] > accuracy[0] + 0.1
    assert [event.facts["n_updates"] for event in events if event.name == "version-folded"] == [4, 4]
    assert set(fleet.public_keys) == set(devices)
    assert verify(fleet).returncode == 0
    for device in devices:
        folder = tmp_path / "fleet" / "devices" / device
        assert [(folder / name).stat().st_mode & 0o777 for name in PRIVATE] == [0o600] * 3


def test_nothing_readable_crosses_the_broker(tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path]) -> None:
    seen: list[tuple[str, bytes]] = []
    fleet = LocalFleet(spec(tmp_path, tiny_bundle, devices, rounds=2))
    spy = paho.Client(CallbackAPIVersion.VERSION2, client_id="spy", protocol=MQTTProtocolVersion.MQTTv5)
    spy.on_message = lambda _client, _data, message: seen.append((message.topic, bytes(message.payload)))
    spy.on_connect = lambda client, *_: client.subscribe("#", qos=1)
    with fleet:
        spy.connect("127.0.0.1", fleet.port)
        spy.loop_start()
        run_to_end(fleet, last_version=2, evaluated=False)
        spy.disconnect()
        spy.loop_stop()
    kinds = {topic.rsplit("/", 1)[-1] for topic, _ in seen}
    assert {"join", "work", "update", "receipt", "announce"} <= kinds
    wire = b"".join(payload for _, payload in seen)
    for data in devices.values():
        for line in data.read_text().splitlines():
            assert json.loads(line)["text"].encode() not in wire
    for path in (tmp_path / "fleet").rglob("*key"):  # device.key, service.key, sentiment.taskkey
        secret = bytes.fromhex(path.read_text().strip())
        assert secret not in wire
        assert path.read_bytes().strip() not in wire
    _assert_no_update_in_clear(tmp_path / "fleet", fleet, seen)


def _assert_no_update_in_clear(folder: Path, fleet: LocalFleet, seen: list[tuple[str, bytes]]) -> None:
    """The updates that devices trained, reopened with the task's key, are nowhere on the wire in the clear."""
    (key_path,) = (folder / "aggregator").rglob("*.taskkey")
    key, n_opened = load_task_key(key_path), 0
    registry = fleet.public_keys
    wire = b"".join(payload for _, payload in seen)
    for topic, payload in seen:
        if not topic.endswith("/up/update"):
            continue
        envelope = unpack_envelope(payload)
        verify_key = VerifyKey(bytes.fromhex(registry[envelope.sender]))
        update = open_envelope(envelope, fleet="local", key=verify_key)
        assert isinstance(update, Update)
        info = binding(
            fleet="local",
            task=update.task,
            bundle_id=update.bundle_id,
            round_=update.round,
            version=update.version,
            device=envelope.sender,
            update_id=update.update_id,
        )
        content = unpack_content(key.open(update.sealed, info=info))
        n_opened += 1
        assert content.delta not in wire
        for start in range(0, len(content.delta) - 16, 16):
            assert content.delta[start : start + 16] not in payload or content.delta[start : start + 16] == bytes(16)
        levels = np.frombuffer(update.sealed, np.uint8)
        # Sealed bytes look like noise: every value about equally often (chi-squared; 255 degrees of freedom, 10 sigma).
        counts = np.bincount(levels, minlength=256)
        chi2 = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        assert chi2 < 255 + 10 * (2 * 255) ** 0.5
    assert n_opened >= 8
