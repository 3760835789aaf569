"""The whole service as a process: a real broker, real MQTT, signals, kill -9, exit codes, memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

from aggregator.adapters.broker import is_available
from host.bundle_folder import open_bundle
from host.keys import load_signing_key
from host.link import BrokerAddress
from host.memory import resident_bytes
from host.mqtt_link import MqttLink
from protocol.messages import Announce
from tests.aggregator.test_restart import take_part
from tests.aggregator.workbench import FLEET, TASK, Device, make_bundle
from tests.host.mosquitto import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aggregator.adapters.broker import BrokerKind
    from host.link import Link
    from protocol.signing import SigningKey

ROOT = Path(__file__).parents[2]
WAIT_S = 90.0  # a start takes 1 s idle, and 20 s and more where ten others want the same two cores
MAX_RESIDENT_BYTES = 90e6  # 68 MB measured idle: Python 11, numpy 15, SQLAlchemy 13, cryptography and MQTT 22

CONFIG = """
[service]
fleet = "{fleet}"
folder = "state"
key = "service.key"
keep_folded_updates = true
[broker]
{broker}
[devices]
registry = "devices.toml"
[[task]]
id = "{task}"
bundle = "bundle"
rounds = 2
cohort = 2
min_cohort = 2
deadline_s = 120
[task.plan]
clip_update_norm = 1.0
[task.plan.optimizer]
[task.plan.codec]
block = 16
"""


class Served:
    """``edgefold serve`` (or another command) in a folder, and its log."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "edgefold", *arguments, "--config", str(folder / "aggregator.toml")]
        self.log = folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the logged events of one name."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [one for one in map(json.loads, lines) if one["event"] == name]

    def wait_for(self, name: str) -> dict[str, Any]:
        """Wait for an event."""
        deadline = time.monotonic() + WAIT_S
        while not (found := self.events(name)):
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None or self.events(name), self.log.read_text()
            time.sleep(0.05)
        return found[-1]

    def end(self, signal_number: int | None = None) -> int:
        """Wait for the end, after a signal if one is given; return the exit code."""
        if signal_number is not None:
            self.process.send_signal(signal_number)
        return self.process.wait(WAIT_S)


class Fleet:
    """What ``Device`` needs of a bench, over real MQTT."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.bundle_id = open_bundle(folder / "bundle").id
        self.links: list[Link] = []

    @property
    def broker(self) -> Fleet:
        return self

    @property
    def service_key(self) -> SigningKey:
        return load_signing_key(self.folder / "service.key")

    def link(self, filters: Sequence[str]) -> Link:
        """Return a device's link."""
        client_id = f"device-{len(self.links)}"
        self.links.append(
            MqttLink(BrokerAddress(host="127.0.0.1", port=self.port), client_id=client_id, filters=filters)
        )
        return self.links[-1]

    def device(self, name: str) -> Device:
        """Return a connected device."""
        bench: Any = self
        return Device(bench, name)

    def close(self) -> None:
        """Close all links."""
        for link in self.links:
            link.close()


def play_until(devices: Sequence[Device], is_over: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_over():
        assert time.monotonic() < deadline
        for device in devices:
            take_part(device)
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A service's folder with a bundle and two devices."""
    make_bundle(tmp_path / "bundle")
    return tmp_path


def configure(folder: Path, broker: str) -> None:
    (folder / "aggregator.toml").write_text(CONFIG.format(fleet=FLEET, task=TASK, broker=broker))
    keys = {name: Device.key_of(name).public.raw.hex() for name in ("a", "b")}
    (folder / "devices.toml").write_text("[devices]\n" + "".join(f'{name} = "{key}"\n' for name, key in keys.items()))


@pytest.fixture
def fleet(folder: Path, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """Devices of a service that runs its own broker."""
    port, kind = free_port(), cast("BrokerKind", getattr(request, "param", "auto"))
    if hasattr(request, "param") and not is_available(kind):
        pytest.skip(f"{kind} is not installed")
    configure(folder, f'kind = "{kind}"\ninsecure_loopback = true\nport = {port}')
    made = Fleet(folder, port)
    yield made
    made.close()


pytestmark = pytest.mark.skipif(
    not (is_available("mosquitto") or is_available("embedded")), reason="no broker is installed"
)


@pytest.mark.parametrize("fleet", ["mosquitto", "embedded"], indirect=True)
def test_two_rounds_with_kill_9_and_a_restart_give_a_history_that_verifies(folder: Path, fleet: Fleet) -> None:
    with Served(folder, "serve") as served:
        ready = served.wait_for("service-ready")
        assert ready["pid"] == served.process.pid
        assert served.wait_for("broker-started")["port"] == fleet.port
        devices = [fleet.device("a"), fleet.device("b")]
        play_until(devices, lambda: bool(served.events("update-accepted")))
        served.end(signal.SIGKILL)
    with Served(folder, "serve", "--exit-when-done") as served:
        served.wait_for("service-ready")
        play_until(devices, lambda: bool(served.events("task-finished")))
        assert served.end() == 0
        assert served.events("service-stopped")
    with Served(folder, "task", "verify", TASK) as verified:
        assert verified.end() == 0, verified.log.read_text()
    assert devices[0].last(Announce).state == "finished"
    assert ("accepted", None) in devices[0].receipts()


def test_sigterm_ends_it_cleanly_and_its_memory_is_small(folder: Path, fleet: Fleet) -> None:
    with Served(folder, "serve") as served:
        served.wait_for("service-ready")
        resident = resident_bytes(served.process.pid)
        assert resident is None or resident < MAX_RESIDENT_BYTES
        mapped = Path(f"/proc/{served.process.pid}/maps")
        if mapped.exists():
            assert "onnxruntime" not in mapped.read_text()
        with Served(folder, "serve") as second:
            assert second.end() == 2
            assert "another edgefold serve runs on this folder" in second.log.read_text()
        assert served.end(signal.SIGTERM) == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", fleet.port), 2)


def test_a_killed_broker_comes_back_and_the_round_goes_on(folder: Path, fleet: Fleet) -> None:
    with Served(folder, "serve", "--exit-when-done") as served:
        served.wait_for("service-ready")
        devices = [fleet.device("a"), fleet.device("b")]
        play_until(devices, lambda: bool(served.events("update-accepted")))
        children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
        if not children.exists():
            pytest.skip("children are read from /proc")
        for child in broker_processes(served.process.pid):
            os.kill(child, signal.SIGKILL)
        play_until(devices, lambda: bool(served.events("task-finished")))
        assert len(served.events("broker-started")) == 2
        assert served.end() == 0


def broker_processes(parent: int) -> list[int]:
    """Return the children of ``parent``, of all its threads."""
    lists = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for one in lists for pid in one.read_text().split()]


def test_the_broker_runs_apart_too(folder: Path) -> None:
    port = free_port()
    configure(folder, f"insecure_loopback = true\nport = {port}")
    with Served(folder, "broker") as broker:
        broker.wait_for("broker-started")
        configure(folder, f'url = "mqtt://127.0.0.1:{port}"')
        with Served(folder, "serve") as served:
            served.wait_for("service-ready")
            assert not served.events("broker-started")
            assert served.end(signal.SIGINT) == 0
        assert broker.end(signal.SIGTERM) == 0


def test_no_broker_is_one_line(folder: Path) -> None:
    configure(folder, f'url = "mqtt://127.0.0.1:{free_port()}"\nconnect_deadline_s = 0.5')
    with Served(folder, "serve") as served:
        assert served.end() == 2
    last = served.log.read_text().splitlines()[-1]
    assert last.startswith("edgefold: no MQTT broker answers at 127.0.0.1:")
    assert "Traceback" not in served.log.read_text()


def test_a_port_in_use_is_one_line(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        configure(folder, f"insecure_loopback = true\nport = {taken.getsockname()[1]}")
        with Served(folder, "serve") as served:
            assert served.end() == 2
    last = served.log.read_text().splitlines()[-1]
    assert last.startswith("edgefold: broker.port = ")
    assert "Traceback" not in served.log.read_text()


def test_a_full_disk_ends_the_service_with_one_line_and_it_resumes(folder: Path, fleet: Fleet) -> None:
    with Served(folder, "serve") as served:
        served.wait_for("service-ready")
        shutil.move(folder / "state" / "blobs", folder / "away")  # stands for a disk that takes nothing more
        devices = [fleet.device("a"), fleet.device("b")]
        deadline = time.monotonic() + WAIT_S
        while served.process.poll() is None and time.monotonic() < deadline:
            for device in devices:
                take_part(device)
            time.sleep(0.1)
        assert served.end() == 4
        last = served.log.read_text().splitlines()[-1]
        assert last.startswith("edgefold: ")
        assert "Traceback" not in served.log.read_text()
    shutil.move(folder / "away", folder / "state" / "blobs")
    with Served(folder, "serve", "--exit-when-done") as served:
        play_until(devices, lambda: bool(served.events("task-finished")))
        assert served.end() == 0
