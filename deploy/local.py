"""A whole fleet on this machine: broker, aggregator and agents as real processes on loopback, each with its own folder.

    folder/aggregator/      aggregator.toml, broker.toml, devices.toml, service.key, state/, broker/
    folder/devices/<id>/    agent.toml, device.key, state/
    folder/logs/<name>.log  what each process printed

Laws: talks to the processes only as a person could (files, signals, logs); every device has its own key; whatever is
killed is started again; leaving the ``with`` block ends everything. Device keys are made here, since enrolment is not
there yet: in a real fleet they never leave the device.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from deploy.supervised import FleetEvent, Supervised
from deploy.toml_text import toml_text
from host.durable import make_folder, write_bytes
from host.keys import save_key
from protocol.errors import EngineError
from protocol.fields import plain
from protocol.signing import SigningKey

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from protocol.messages import Plan

__all__ = ["BrokerKind", "FleetSpec", "LocalFleet", "Storm"]

BrokerKind = Literal["auto", "mosquitto", "embedded"]

_POLL_S: Final = 0.1
_START_DEADLINE_S: Final = 30.0
FLEET_NAME: Final = "local"


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


class LocalFleet:
    """A running fleet; a context manager."""

    def __init__(self, spec: FleetSpec) -> None:
        """Write all configuration and keys; start nothing yet."""
        self.spec = spec
        shutil.rmtree(spec.folder, ignore_errors=True)
        for name in ("aggregator", "devices", "logs"):
            make_folder(spec.folder / name)
        self.port = free_port()
        self._service_key = SigningKey.generate()
        self.processes: dict[str, Supervised] = {}
        self.broker_kind = ""  # known once the broker has started
        self.public_keys = self._write_devices()
        self._write_service(self.public_keys)

    def __enter__(self) -> Self:
        """Start broker, aggregator and agents, and wait until the first two answer."""
        try:
            self._start("broker", "broker-started")
            self._start("aggregator", "link-up")
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

    def _write_devices(self) -> dict[str, str]:
        public_keys = {}
        for device, data in self.spec.devices.items():
            folder = make_folder(self.spec.folder / "devices" / device)
            key = SigningKey.generate()
            save_key(folder / "device.key", key)
            public_keys[device] = key.public.raw.hex()
            settings = {
                "device": {
                    "fleet": FLEET_NAME,
                    "id": device,
                    "key": "device.key",
                    "service_key": self._service_key.public.raw.hex(),
                    "bundles": [str(self.spec.bundle.resolve())],
                },
                "broker": {"url": f"mqtt://127.0.0.1:{self.port}"},
                "data": {"train": str(data.resolve())},
                "trainer": {"threads": self.spec.threads},
            }
            _write_toml(folder / "agent.toml", settings)
        return public_keys

    def _write_service(self, public_keys: dict[str, str]) -> None:
        folder = self.spec.folder / "aggregator"
        save_key(folder / "service.key", self._service_key)
        _write_toml(folder / "devices.toml", {"devices": public_keys})
        task = {
            "id": self.spec.task,
            "bundle": str(self.spec.bundle.resolve()),
            "strategy": "fedavg",
            "rounds": self.spec.rounds,
            "cohort": self.spec.cohort or len(self.spec.devices),
            "min_cohort": self.spec.min_cohort,
            "deadline_s": self.spec.deadline_s,
            "plan": plain(self.spec.plan),
        }
        if self.spec.sets:
            task["evaluation"] = {"sets": {name: str(path.resolve()) for name, path in self.spec.sets.items()}}
        settings: dict[str, Any] = {
            "service": {
                "fleet": FLEET_NAME,
                "folder": "state",
                "key": "service.key",
                "keep_folded_updates": self.spec.keep_updates,
            },
            "broker": {"url": f"mqtt://127.0.0.1:{self.port}"},
            "devices": {"registry": "devices.toml"},
            "task": [task],
        }
        _write_toml(self.aggregator_config, settings)
        # The broker runs apart, so that either can die without the other.
        settings["service"] = {**settings["service"], "folder": "broker"}
        settings["broker"] = {"kind": self.spec.broker, "host": "127.0.0.1", "port": self.port}
        _write_toml(folder / "broker.toml", settings)
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


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write_toml(path: Path, table: Mapping[str, Any]) -> None:
    write_bytes(path, toml_text(table).encode())
