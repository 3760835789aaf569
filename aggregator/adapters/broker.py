"""A broker as a supervised child process: Mosquitto where it is installed, else the embedded one (docs/adr/0005).

Laws: a broker is an OS process of its own, so its death is not ours; on Linux it ends when we end, even by SIGKILL; it
counts as started only when it answers a CONNECT, or with TLS, where we are no client, accepts a connection; without TLS
it listens on loopback and nowhere else; every size and every wait is bounded.
What a broker can and cannot do is said once, in ``FACTS``, and proven by
``tests/aggregator/test_broker_contract.py``.

It does not speak MQTT beyond that one CONNECT, does not decide when to restart (the caller sees ``is_alive``), and does
not make messages safe: with none of these brokers is a PUBACK a proof of delivery, so receipts and idempotent ids are.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from aggregator.adapters.bound_child import BoundChild
from aggregator.adapters.broker_probe import accepts, answers_connect, settle_port
from aggregator.adapters.mosquitto_files import BrokerTls, mosquitto_config, write_access
from aggregator.adapters.rumqttd_files import rumqttd_config
from protocol.errors import ConfigError, LocalProtocolError, StorageError, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "ALL_INTERFACES",
    "FACTS",
    "LOOPBACK",
    "BrokerConfig",
    "BrokerFacts",
    "BrokerKind",
    "BrokerProcess",
    "choose_broker",
    "is_available",
]

BrokerKind: TypeAlias = Literal["mosquitto", "embedded"]

LOOPBACK = "127.0.0.1"
ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - compared with, to know whom to ask
SEARCH_PATH_EXTRA = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # packages install there, off users' PATH
START_DEADLINE_S = 15.0  # measured 0.03 to 0.2 s; the rest is for a small board that trains on every core
STOP_GRACE_S = 5.0  # measured 2 to 100 ms; Mosquitto writes its whole database then; SIGKILL after it
POLL_S = 0.02  # between two tries to connect while the broker starts
LOG_TAIL_BYTES = 2_000  # of the broker's log, quoted when it fails to start


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFacts:
    """What a broker does and does not do; the contract suite holds each broker to its own line.

    Attributes:
        mqtt5: MQTT 5 is spoken.
        mqtt311_on_own_port: MQTT 3.1.1 clients must use another port than MQTT 5 clients.
        retained: a retained message reaches later subscribers.
        offline_queueing: a persistent session gets, in order, what was published while it was away.
        redelivers_unacked: what a session did not acknowledge comes again when it reconnects.
        tolerates_unordered_acks: a client may acknowledge in another order than it received. MQTT 5, section 4.6,
            forbids it; rumqttd then disconnects it and forgets the session's oldest unacknowledged message.
        queue_survives_restart: sessions, their queues and retained messages outlive an orderly restart of the broker.
        announces_max_packet: the MQTT 5 CONNACK says the largest packet; otherwise a client must know it.
    """

    mqtt5: bool
    mqtt311_on_own_port: bool
    retained: bool
    offline_queueing: bool
    redelivers_unacked: bool
    tolerates_unordered_acks: bool
    queue_survives_restart: bool
    announces_max_packet: bool


FACTS: Mapping[BrokerKind, BrokerFacts] = MappingProxyType(
    {
        "mosquitto": BrokerFacts(
            mqtt5=True,
            mqtt311_on_own_port=False,
            retained=True,
            offline_queueing=True,
            redelivers_unacked=True,
            tolerates_unordered_acks=True,
            queue_survives_restart=True,
            announces_max_packet=True,
        ),
        "embedded": BrokerFacts(
            mqtt5=True,
            mqtt311_on_own_port=True,
            retained=True,
            offline_queueing=True,
            redelivers_unacked=True,
            tolerates_unordered_acks=False,
            queue_survives_restart=False,
            announces_max_packet=False,
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Where a broker listens, where it keeps its files, and its bounds.

    Attributes:
        kind: which broker; ask ``choose_broker``.
        folder: its own folder, for configuration, log and state; made if missing.
        port: TCP port of MQTT 5 (and of 3.1.1 where one port serves both); 0 picks a free one at the first start.
        mqtt311_port: TCP port of MQTT 3.1.1 where it needs its own (embedded); 0 picks a free one at the first start.
        host: the address to listen on; loopback only without TLS.
        tls: certificates and access lists; Mosquitto alone has both.
        max_packet_bytes: the largest MQTT packet; its sender is disconnected above it.
        max_queued_messages: messages that wait for one session (Mosquitto; the oldest are kept).
        max_queued_bytes: bytes that wait for one session (Mosquitto) or topic filter (embedded; the newest are kept).
        max_connections: clients at once.
    """

    kind: BrokerKind
    folder: Path
    port: int = 0
    mqtt311_port: int = 0
    host: str = LOOPBACK
    tls: BrokerTls | None = None
    max_packet_bytes: int = 8 << 20  # twice the largest chunk we plan for
    max_queued_messages: int = 10_000  # a round of thousands of devices while the aggregator restarts
    max_queued_bytes: int = 256 << 20  # 2,900 updates of 90 kB; a burst above it is lost though it was PUBACKed
    max_connections: int = 10_000

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of its range, or the host is not loopback (the user's fault).
        """
        if self.kind not in FACTS:
            raise ConfigError(f"broker.kind = {self.kind!r}: expected one of {', '.join(FACTS)}")
        if self.tls is not None and self.kind != "mosquitto":
            raise ConfigError('broker.kind: the embedded broker has no access lists, so no TLS either: "mosquitto"')
        if self.tls is None and self.host != LOOPBACK:
            raise ConfigError(
                f"broker.host = {self.host!r}: a broker without TLS listens on {LOOPBACK} only; "
                "to serve other machines make certificates first: edgefold serve init"
            )
        _check_range("port", self.port, low=0, high=65_535)
        _check_range("mqtt311_port", self.mqtt311_port, low=0, high=65_535)
        # MQTT 5, section 1.5.5: a packet's length takes 4 bytes of 7 bits. Below 1 KiB no message of ours fits.
        _check_range("max_packet_bytes", self.max_packet_bytes, low=1024, high=268_435_455)
        _check_range("max_queued_messages", self.max_queued_messages, low=1, high=1_000_000)
        _check_range("max_queued_bytes", self.max_queued_bytes, low=self.max_packet_bytes, high=1 << 40)
        _check_range("max_connections", self.max_connections, low=1, high=1_000_000)


def _check_range(key: str, value: int, *, low: int, high: int) -> None:
    """Raise ``ConfigError`` naming ``broker.<key>`` unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise ConfigError(f"broker.{key} = {value}: expected {low} to {high}")


def is_available(kind: BrokerKind) -> bool:
    """Return whether this machine can start that broker; nothing is loaded to find out."""
    if kind == "mosquitto":
        return _find_mosquitto() is not None
    return importlib.util.find_spec("iotcore") is not None


def choose_broker(kind: Literal["auto", "mosquitto", "embedded"] = "auto") -> BrokerKind:
    """Return the broker to start: the one asked for, or the best one that this machine has.

    Raises:
        ConfigError: it is not installed; the message says how to install it (the user's fault).
    """
    if kind not in ("auto", *FACTS):
        raise ConfigError(f"broker.kind = {kind!r}: expected auto, {' or '.join(FACTS)}")
    wanted: tuple[BrokerKind, ...] = ("mosquitto", "embedded") if kind == "auto" else (kind,)
    for candidate in wanted:
        if is_available(candidate):
            return candidate
    remedy = {
        "auto": "no broker is installed: install mosquitto (apt install mosquitto) or edgefold[aggregator]",
        "mosquitto": 'mosquitto is not installed: apt install mosquitto, or set broker.kind = "embedded"',
        "embedded": "the embedded broker is not installed: pip install 'edgefold[aggregator]'",
    }
    raise ConfigError(remedy[kind])


def _find_mosquitto() -> str | None:
    """Return the path of the mosquitto program, also where an ordinary user's PATH does not look."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *SEARCH_PATH_EXTRA])
    return shutil.which("mosquitto", path=search)


class BrokerProcess:
    """One broker process, started, watched and ended by its owner.

    Attributes:
        config: what it was made with.
    """

    def __init__(self, config: BrokerConfig) -> None:
        """Prepare; nothing is written or started before ``start``."""
        self.config = config
        self._port = config.port
        self._mqtt311_port = config.mqtt311_port
        self._child: BoundChild | None = None

    @property
    def kind(self) -> BrokerKind:
        """Which broker this is."""
        return self.config.kind

    @property
    def facts(self) -> BrokerFacts:
        """What this broker does and does not do."""
        return FACTS[self.config.kind]

    @property
    def version(self) -> str:
        """The program and its version, for people, such as ``mosquitto 2.0.11``; asked of the installation."""
        if self.kind == "embedded":
            return f"rumqttd (iotcore {importlib.metadata.version('iotcore')})"
        return _mosquitto_version()

    @property
    def host(self) -> str:
        """The address it listens on."""
        return self.config.host

    @property
    def port(self) -> int:
        """The MQTT 5 port; stays the same over restarts; 0 before the first start if one is to be picked."""
        return self._port

    @property
    def mqtt311_port(self) -> int:
        """The MQTT 3.1.1 port, which is ``port`` where one serves both."""
        return self._mqtt311_port if self.facts.mqtt311_on_own_port else self._port

    @property
    def pid(self) -> int | None:
        """The process id while it is alive."""
        return self._child.pid if self._child is not None and self.is_alive else None

    @property
    def is_alive(self) -> bool:
        """Whether the process runs; after a death ``start`` may be called again, and serves the same ports."""
        return self._child is not None and self._child.exit_code is None

    def start(self) -> None:
        """Write the configuration, start the process and return once it accepts a CONNECT.

        Raises:
            ConfigError: not installed, or a port is in use (the user's fault).
            StorageError: the folder cannot be written (the environment's).
            TransportError: it died or did not answer in time; the end of its log is quoted (the environment's).
            LocalProtocolError: it runs already (the caller's).
        """
        if self.is_alive:
            raise LocalProtocolError(f"the broker on port {self._port} runs already")
        choose_broker(self.kind)
        self._settle_ports()
        argv = self._write_config()
        self._child = BoundChild(argv, log=self.config.folder / "broker.log")
        try:
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process in good order, by force after a bound; does nothing if it does not run."""
        if self._child is not None:
            self._child.end(grace_s=STOP_GRACE_S)

    def reload(self) -> None:
        """Make it read certificates, revocations and access lists again (Mosquitto); connections stay."""
        if self._child is not None and self.kind == "mosquitto":
            self._child.send(signal.SIGHUP)

    def __enter__(self) -> Self:
        """Start, and give itself."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _settle_ports(self) -> None:
        """Pick the ports that were left open, once, and see that each is free now."""
        self._port = settle_port("port", self._port)
        if self.facts.mqtt311_on_own_port:
            self._mqtt311_port = settle_port("mqtt311_port", self._mqtt311_port)

    def _write_config(self) -> list[str]:
        """Write the broker's own configuration file; return the command that starts it."""
        folder = self.config.folder.resolve()
        try:
            (folder / "state").mkdir(parents=True, exist_ok=True)
            if self.kind == "mosquitto":
                path = folder / "mosquitto.conf"
                text = mosquitto_config(self.config, port=self._port)
                write_access(self.config)
            else:
                path = folder / "rumqttd.toml"
                text = rumqttd_config(self.config, port=self._port, mqtt311_port=self._mqtt311_port)
            path.write_text(text, encoding="utf-8")
        except OSError as exc:
            raise StorageError(f"cannot write the broker's folder {folder}: {exc.strerror}") from exc
        if self.kind == "mosquitto":
            return [_find_mosquitto() or "mosquitto", "-c", str(path)]
        return [sys.executable, "-P", "-m", "aggregator.adapters.embedded_broker", "--config", str(path)]

    def _await_answer(self) -> None:
        """Return when every port accepts a CONNECT or a connection; raise when the process dies or the time is up."""
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            if not self.is_alive:
                raise TransportError(f"{self.kind} ended while it started: {self._log_tail()}")
            if self._answers():
                return
            time.sleep(POLL_S)
        raise TransportError(
            f"{self.kind} did not answer on port {self._port} within {START_DEADLINE_S} s: {self._log_tail()}"
        )

    def _answers(self) -> bool:
        if self.config.tls is not None:
            host = LOOPBACK if self.host == ALL_INTERFACES else self.host
            ports = [self.port, self.config.tls.service_port] if self.config.tls.role == "claims" else [self.port]
            return all(accepts(host, port) for port in ports)
        return answers_connect(self.host, self.port) and accepts(self.host, self.mqtt311_port)

    def _log_tail(self) -> str:
        """Return the end of the broker's log on one line."""
        with contextlib.suppress(OSError):
            tail = (self.config.folder / "broker.log").read_bytes()[-LOG_TAIL_BYTES:]
            return " | ".join(tail.decode("utf-8", "replace").split("\n")).strip(" |") or "its log is empty"
        return "it left no log"


def _mosquitto_version() -> str:
    """Return what ``mosquitto -h`` calls itself; it exits with 3, so its status says nothing."""
    program = _find_mosquitto()
    if program is None:
        return "mosquitto (not installed)"
    said = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=START_DEADLINE_S, check=False).stdout
    return said.partition("\n")[0].replace(" version", "") or "mosquitto"
