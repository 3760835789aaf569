"""A whole fleet on this machine: broker, aggregator and agents as real processes on loopback, each with its own folder.

    folder/aggregator/      aggregator.toml, broker.toml, devices.toml, service.key, state/, broker/, authority/
    folder/devices/<id>/    agent.toml, device.key, state/, identity/
    folder/logs/<name>.log  what each process printed

Laws: talks to the processes only as a person could (files, signals, logs); every device has its own key; whatever is
killed is started again; leaving the ``with`` block ends everything. With ``secure`` every device makes its own keys and
enrols by a token over the claim broker, and everything is mutual TLS. Without it the fleet is for this machine alone:
the configuration says ``insecure_loopback``, and device keys are made here.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from deploy.supervised import FleetEvent, Supervised
from deploy.toml_text import toml_text
from host.durable import make_folder, write_bytes
from host.keys import save_key
from protocol.errors import ConfigError, EngineError
from protocol.fields import plain
from protocol.signing import SigningKey

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from protocol.plan import Plan

__all__ = ["LOOPBACK", "BrokerKind", "FleetSpec", "LocalFleet", "Storm", "free_ports"]

BrokerKind = Literal["auto", "mosquitto", "embedded"]

_POLL_S: Final = 0.1
_START_DEADLINE_S: Final = 90.0  # an interpreter starts in 1 s, and in 20 where ten others want the same cores
_COMMAND_DEADLINE_S: Final = 60.0
FLEET_NAME: Final = "local"
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    """What to start.

    Attributes:
        folder: where everything is written; emptied first.
        bundle: what ``edgefold export`` wrote.
        devices: each device's file of examples, by device id.
        sets: evaluation files by name.
        task: the task's id.
        plan: what devices do in a round.
        rounds: how many versions to fold.
        cohort, min_cohort, deadline_s: when a round closes.
        broker: which broker to start.
        threads: of each trainer.
        keep_updates: keep folded updates, so that ``edgefold task verify`` can fold them again.
        privacy: the table ``[task.privacy]`` of the task; empty for its defaults.
        device_privacy: the table ``[privacy]`` of every device.
        secure: certificates, enrolment and mutual TLS, as a real fleet has them; needs Mosquitto.
        post_quantum: with ``secure``, everybody signs by ML-DSA-65 too.
        more_bundles: that devices have too, for tasks that are created later.
        task_settings: more keys of the task's table, such as ``selection``.
        trainer_settings: more keys of single devices' ``[trainer]``, by device id, such as ``least_pass_s``.
        http: serve the page on a free loopback port.
        service_settings: more keys of ``[service]``, such as ``blobs``.
        more_tables: more tables of the aggregator's settings, such as ``fold``.
    """

    folder: Path
    bundle: Path
    devices: Mapping[str, Path]
    plan: Plan
    rounds: int
    sets: Mapping[str, Path] = field(default_factory=dict)
    task: str = "sentiment"
    cohort: int | None = None
    min_cohort: int = 1
    deadline_s: float = 600.0
    broker: BrokerKind = "auto"
    threads: int = 1
    keep_updates: bool = False
    secure: bool = False
    post_quantum: bool = False
    privacy: Mapping[str, Any] = field(default_factory=dict)
    device_privacy: Mapping[str, Any] = field(default_factory=dict)
    more_bundles: tuple[Path, ...] = ()
    task_settings: Mapping[str, Any] = field(default_factory=dict)
    trainer_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    http: bool = False
    service_settings: Mapping[str, Any] = field(default_factory=dict)
    more_tables: Mapping[str, Any] = field(default_factory=dict)


class LocalFleet:
    """A running fleet; a context manager."""

    def __init__(self, spec: FleetSpec) -> None:
        """Write all configuration and keys; start nothing yet."""
        self.spec = spec
        shutil.rmtree(spec.folder, ignore_errors=True)
        for name in ("aggregator", "devices", "logs"):
            make_folder(spec.folder / name)
        self.port, self._http_port, *self._claim_ports = free_ports(4)
        self.processes: dict[str, Supervised] = {}
        self.broker_kind = ""  # known once the broker has started
        self.public_keys: dict[str, str] = {}
        if spec.secure:
            self._init()
        else:
            self._service_key = SigningKey.generate()
            save_key(spec.folder / "aggregator" / "service.key", self._service_key)
        self._write_devices()
        self._write_service()

    def __enter__(self) -> Self:
        """Start broker, aggregator and agents, and wait until the first two answer."""
        try:
            self._start("broker", "broker-started")
            self._start("aggregator", "claims-open" if self.spec.secure else "link-up")
            if self.spec.secure:
                self._enrol()
            for device in self.spec.devices:
                self.processes[device].start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self.stop()

    @property
    def aggregator_config(self) -> Path:
        """The aggregator's TOML file, for ``edgefold task``."""
        return self.spec.folder / "aggregator" / "aggregator.toml"

    def page_url(self) -> str:
        """Return an address that opens the page with a viewer's token of its own, good for a day."""
        config = str(self.aggregator_config)
        printed = _edgefold("serve", "token", "--role", "viewer", "--expires", "24h", "--config", config)
        return f"http://{LOOPBACK}:{self._http_port}/#token={printed.strip()}"

    def events(self, *, until: str | None = None, deadline_s: float) -> Iterator[FleetEvent]:
        """Yield what happens, restarting what dies, until an event named ``until`` was yielded.

        Raises:
            EngineError: ``deadline_s`` passed first.
            ConfigError, EngineError: a process gave up.
        """
        end_s = time.monotonic() + deadline_s
        while time.monotonic() < end_s:
            for event in self.poll():
                yield event
                if event.name == until:
                    return
            time.sleep(_POLL_S)
        if until is not None:
            raise EngineError(f"no {until} within {deadline_s:.0f} s; see {self.spec.folder / 'logs'}")

    def poll(self) -> list[FleetEvent]:
        """Return what was logged since the last call; restart what was killed."""
        events: list[FleetEvent] = []
        for process in self.processes.values():
            events.extend(process.new_events())
            process.keep_running()
        return sorted(events, key=lambda event: str(event.facts.get("at")))

    def kill(self, name: str) -> None:
        """End one process with SIGKILL; ``poll`` starts it again."""
        self.processes[name].kill()

    def stop(self) -> None:
        """End agents, then the aggregator, then the broker."""
        for process in reversed(self.processes.values()):
            process.stop()

    def _start(self, name: str, ready: str) -> None:
        process = self.processes[name]
        process.start()
        end_s = time.monotonic() + _START_DEADLINE_S
        while time.monotonic() < end_s:
            for event in process.new_events():
                self.broker_kind = event.facts.get("kind", self.broker_kind)
                if event.name == ready:
                    return
            process.keep_running()
            time.sleep(_POLL_S / 4)
        raise EngineError(f"{name} did not answer within {_START_DEADLINE_S:.0f} s; see {self.spec.folder / 'logs'}")

    def _add(self, name: str, *arguments: str) -> None:
        self.processes[name] = Supervised(name, arguments, self.spec.folder / "logs" / f"{name}.log")

    def _init(self) -> None:
        folder, ports = self.spec.folder / "aggregator", [self.port, *self._claim_ports]
        names = ("--port", "--claim-port", "--claim-service-port")
        options = [text for name, port in zip(names, ports, strict=True) for text in (name, str(port))]
        _edgefold("serve", "init", "--folder", str(folder), "--fleet", FLEET_NAME, "--host", LOOPBACK, *options)

    def _enrol(self) -> None:
        """Let every device in, as its owner would: a token each, and the device does the rest."""
        config, devices = str(self.aggregator_config), list(self.spec.devices)
        printed = _edgefold("devices", "token", "--count", str(len(devices)), "--config", config, "--json")
        for device, token in zip(devices, json.loads(printed)["tokens"], strict=True):
            settings = self.spec.folder / "devices" / device / "agent.toml"
            _edgefold("agent", "enrol", "--config", str(settings), "--token", token)
        listed = json.loads(_edgefold("devices", "list", "--config", config, "--json"))["devices"]
        self.public_keys = {one["device"]: one["verify_key"] for one in listed}

    def _write_devices(self) -> None:
        for device, data in self.spec.devices.items():
            folder = make_folder(self.spec.folder / "devices" / device)
            settings: dict[str, Any] = {
                "device": {
                    "fleet": FLEET_NAME,
                    "id": device,
                    "key": "device.key",
                    "bundles": [str(one.resolve()) for one in (self.spec.bundle, *self.spec.more_bundles)],
                },
                "data": {"train": str(data.resolve())},
                "trainer": {"threads": self.spec.threads, **self.spec.trainer_settings.get(device, {})},
                "privacy": dict(self.spec.device_privacy),
            }
            if not self.spec.secure:
                key = SigningKey.generate()
                save_key(folder / "device.key", key)
                self.public_keys[device] = key.public.raw.hex()
                settings["device"]["service_key"] = self._service_key.public.raw.hex()
                settings["broker"] = {"url": f"mqtt://{LOOPBACK}:{self.port}"}
                # Without an authority each owner says whom a secure sum's devices are: here one person owns them all.
                settings["privacy"] = {"directory": "peers.toml", **settings["privacy"]}
            _write_toml(folder / "agent.toml", settings)
        if not self.spec.secure:
            for device in self.spec.devices:
                _write_toml(self.spec.folder / "devices" / device / "peers.toml", {"devices": self.public_keys})

    def _write_service(self) -> None:
        folder = self.spec.folder / "aggregator"
        if not self.spec.secure:
            _write_toml(folder / "devices.toml", {"devices": self.public_keys})
        task = {
            "id": self.spec.task,
            "bundle": str(self.spec.bundle.resolve()),
            "strategy": "fedavg",
            "rounds": self.spec.rounds,
            "cohort": self.spec.cohort or len(self.spec.devices),
            "min_cohort": self.spec.min_cohort,
            "deadline_s": self.spec.deadline_s,
            "plan": plain(self.spec.plan),
            **self.spec.task_settings,
        }
        if self.spec.privacy:
            task["privacy"] = dict(self.spec.privacy)
        if self.spec.sets:
            task["evaluation"] = {"sets": {name: str(path.resolve()) for name, path in self.spec.sets.items()}}
        settings: dict[str, Any] = {
            "service": {
                "fleet": FLEET_NAME,
                "folder": "state",
                "key": "service.key",
                "keep_folded_updates": self.spec.keep_updates,
                "post_quantum_signatures": self.spec.secure and self.spec.post_quantum,
                **self.spec.service_settings,
            },
            "task": [task],
        }
        # The broker runs apart, so that either can die without the other.
        apart: dict[str, Any] = {"kind": self.spec.broker, "host": LOOPBACK, "port": self.port}
        if self.spec.secure:
            claim_port, service_port = self._claim_ports
            settings["authority"] = {"folder": "authority", "host": LOOPBACK}
            claims = {"claim_port": claim_port, "claim_url": f"mqtts://{LOOPBACK}:{service_port}"}
            settings["broker"] = {"url": f"mqtts://{LOOPBACK}:{self.port}", **claims}
            apart |= {"claim_port": claim_port, "claim_service_port": service_port}
        else:
            settings["devices"] = {"registry": "devices.toml"}
            settings["broker"] = {"url": f"mqtt://{LOOPBACK}:{self.port}"}
            apart["insecure_loopback"] = True
        here = {"http": {"host": LOOPBACK, "port": self._http_port}} if self.spec.http else {}
        _write_toml(self.aggregator_config, {**settings, **here, **self.spec.more_tables})
        service = {**settings["service"], "folder": "broker"}
        _write_toml(folder / "broker.toml", {**settings, "service": service, "broker": apart})
        self._add("broker", "broker", "--config", str(folder / "broker.toml"))
        self._add("aggregator", "serve", "--config", str(self.aggregator_config))
        for device in self.spec.devices:
            config = self.spec.folder / "devices" / device / "agent.toml"
            self._add(device, "agent", "run", "--config", str(config))


class Storm:
    """Kills a random process of a fleet every now and then, to show that nothing is lost by it."""

    def __init__(self, fleet: LocalFleet, rng: random.Random, *, every_s: tuple[float, float], n_kills: int) -> None:
        """Kill ``n_kills`` times, a random time within ``every_s`` apart."""
        self.victims: list[str] = []
        self._fleet, self._rng, self._every_s, self._n_kills = fleet, rng, every_s, n_kills
        self._next_s = time.monotonic() + rng.uniform(*every_s)

    def blow(self) -> None:
        """Kill somebody if it is time."""
        if len(self.victims) < self._n_kills and time.monotonic() >= self._next_s:
            victim = self._rng.choice(list(self._fleet.processes))
            self._fleet.kill(victim)
            self.victims.append(victim)
            self._next_s = time.monotonic() + self._rng.uniform(*self._every_s)


def free_ports(count: int) -> list[int]:
    """Return different loopback ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(contextlib.closing(socket.socket())) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _edgefold(*arguments: str) -> str:
    """Return what a command printed.

    Raises:
        ConfigError: it failed; the text is its own last line.
    """
    command = [sys.executable, "-m", "edgefold", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_DEADLINE_S, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise ConfigError(f"edgefold {arguments[0]} {arguments[1]}: {lines[-1] if lines else 'failed'}")
    return done.stdout


def _write_toml(path: Path, table: Mapping[str, Any]) -> None:
    write_bytes(path, toml_text(table).encode())
