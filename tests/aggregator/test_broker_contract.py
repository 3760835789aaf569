"""One contract for every broker edgefold may run on; a claim of ``BrokerFacts`` is tested to be true as declared.

Laws: each broker is a real OS process on a free loopback port with a folder of its own; every wait has a deadline; a
behaviour that all brokers must have is asserted, one that they may lack is compared with ``BrokerFacts``.
``EDGEFOLD_CONTRACT_BROKER=host:port/3.1.1`` (or ``/5``) runs the same suite on a broker that already runs, as if it
claimed everything: so ADR 0005 measured its candidates, and so an operator checks a cluster of their own.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Self, cast

import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from aggregator.adapters import broker as subject
from aggregator.adapters.mosquitto_files import MAX_INFLIGHT
from protocol.errors import ConfigError, LocalProtocolError, StorageError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WAIT_S = 10.0  # a loaded 2-core machine takes about 1 s for the slowest step; a healthy broker never waits this long
QUIET_S = 0.7  # how long silence must last to count as "nothing came"; loopback delivery takes about 1 ms
MAX_PACKET_BYTES = 8 << 20
EXTERNAL = os.environ.get("EDGEFOLD_CONTRACT_BROKER", "")
PROTOCOLS = {"3.1.1": MQTTProtocolVersion.MQTTv311, "5": MQTTProtocolVersion.MQTTv5}

ALL_CLAIMED = subject.BrokerFacts(
    mqtt5=True,
    mqtt311_on_own_port=False,
    retained=True,
    offline_queueing=True,
    redelivers_unacked=True,
    tolerates_unordered_acks=True,
    queue_survives_restart=True,
    announces_max_packet=True,
)

OWNER_SCRIPT = """
import pathlib, sys, time
from aggregator.adapters import broker
process = broker.BrokerProcess(broker.BrokerConfig(kind=sys.argv[1], folder=pathlib.Path(sys.argv[2])))
process.start()
print(process.pid, flush=True)
time.sleep(60)
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A broker under test, spoken to in one version of MQTT."""

    host: str
    port: int
    protocol: str
    facts: subject.BrokerFacts


class Peer:
    """A paho client whose every step waits for the broker's answer."""

    def __init__(
        self,
        target: Target,
        client_id: str | None = None,
        *,
        clean: bool = True,
        manual_ack: bool = False,
        will: tuple[str, bytes] | None = None,
    ) -> None:
        self.target = target
        self.client_id = client_id or fresh("peer")
        self.inbox: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        self.events: queue.Queue[str] = queue.Queue()
        self.connack: Properties | None = None
        self.is_session_present = False
        is_v5 = target.protocol == "5"
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=PROTOCOLS[target.protocol],
            clean_session=None if is_v5 else clean,
            manual_ack=manual_ack,
            reconnect_on_failure=False,
        )
        if will is not None:
            self.client.will_set(will[0], will[1], qos=1)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = lambda *_: self.events.put("disconnected")
        self.client.on_subscribe = lambda *_: self.events.put("subscribed")
        self.client.on_message = lambda _client, _data, message: self.inbox.put(message)
        if is_v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's only untyped call here
            properties.SessionExpiryInterval = 0 if clean else 3600
            self.client.connect(target.host, target.port, keepalive=30, clean_start=clean, properties=properties)
        else:
            self.client.connect(target.host, target.port, keepalive=30)
        self.client.loop_start()
        self.expect("connected")

    def _on_connect(self, *args: object) -> None:
        _client, _data, flags, reason, properties = args
        self.connack = properties if isinstance(properties, Properties) else None
        self.is_session_present = bool(getattr(flags, "session_present", False))
        is_refused = bool(getattr(reason, "is_failure", True))
        self.events.put("refused" if is_refused else "connected")

    def expect(self, event: str) -> None:
        assert self.events.get(timeout=WAIT_S) == event

    def subscribe(self, topic_filter: str) -> Self:
        self.client.subscribe(topic_filter, qos=1)
        self.expect("subscribed")
        return self

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        info = self.client.publish(topic, payload, qos=1, retain=retain)
        info.wait_for_publish(WAIT_S)
        assert info.is_published(), f"no PUBACK within {WAIT_S} s"

    def receive(self, n_messages: int) -> list[mqtt.MQTTMessage]:
        return [self.inbox.get(timeout=WAIT_S) for _ in range(n_messages)]

    def hears_something(self) -> bool:
        try:
            self.inbox.get(timeout=QUIET_S)
        except queue.Empty:
            return False
        return True

    def drop(self) -> None:
        """End the TCP connection without a DISCONNECT, as a lost link does."""
        self.client.loop_stop()
        link = self.client.socket()
        assert isinstance(link, socket.socket)
        link.shutdown(socket.SHUT_RDWR)
        link.close()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fresh(stem: str) -> str:
    return f"{stem}-{uuid.uuid4().hex[:12]}"


def broker_of(kind: subject.BrokerKind, folder: Path, *, port: int = 0) -> subject.BrokerProcess:
    config = subject.BrokerConfig(kind=kind, folder=folder, port=port, max_packet_bytes=MAX_PACKET_BYTES)
    return subject.BrokerProcess(config)


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline, f"not true within {WAIT_S} s"
        time.sleep(0.01)


def target_of(process: subject.BrokerProcess, protocol: str) -> Target:
    port = process.port if protocol == "5" else process.mqtt311_port
    return Target(host=process.host, port=port, protocol=protocol, facts=process.facts)


def targets() -> list[str]:
    if EXTERNAL:
        return ["external-" + EXTERNAL.rpartition("/")[2]]
    return [f"{kind}-{protocol}" for kind in subject.FACTS for protocol in PROTOCOLS]


def require(kind: str) -> None:
    if kind != "external" and not subject.is_available(cast("subject.BrokerKind", kind)):
        pytest.skip(f"{kind} is not installed here")


@pytest.fixture(scope="module", params=targets())
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    kind, _, protocol = request.param.partition("-")
    require(kind)
    if kind == "external":
        host, _, port = EXTERNAL.rpartition("/")[0].rpartition(":")
        yield Target(host=host, port=int(port), protocol=protocol, facts=ALL_CLAIMED)
        return
    with broker_of(cast("subject.BrokerKind", kind), tmp_path_factory.mktemp(kind)) as process:
        yield target_of(process, protocol)


@pytest.fixture(params=[] if EXTERNAL else list(subject.FACTS))
def kind(request: pytest.FixtureRequest) -> subject.BrokerKind:
    require(request.param)
    return cast("subject.BrokerKind", request.param)


# --- what every broker must do -----------------------------------------------------------------------------------


def test_a_client_connects(target: Target) -> None:
    with Peer(target) as peer:
        assert peer.client.is_connected()


@pytest.mark.parametrize("n_bytes", [0, 200, 1 << 20, 4 << 20])
def test_a_qos1_payload_arrives_intact(target: Target, n_bytes: int) -> None:
    payload, topic = os.urandom(n_bytes), fresh("payload")
    with Peer(target) as sender, Peer(target).subscribe(topic) as receiver:
        sender.publish(topic, payload)
        [message] = receiver.receive(1)
        assert (message.topic, message.payload, message.qos) == (topic, payload, 1)


def test_many_messages_from_one_sender_keep_their_order(target: Target) -> None:
    topic, n_messages = fresh("order"), 500
    with Peer(target) as sender, Peer(target).subscribe(topic) as receiver:
        infos = [sender.client.publish(topic, str(i), qos=1) for i in range(n_messages)]
        for info in infos:
            info.wait_for_publish(WAIT_S)
        received = [int(message.payload) for message in receiver.receive(n_messages)]
        assert received == list(range(n_messages))


def test_a_burst_within_the_queue_bound_reaches_a_slow_receiver_whole(target: Target) -> None:
    fleet, n_devices, n_each, n_bytes = fresh("f"), 10, 20, 90_000  # 18 MB; 90 kB is the most a device sends a round
    with Peer(target, clean=False, manual_ack=True).subscribe(f"ef/1/{fleet}/dev/+/up/+") as receiver:
        devices = [Peer(target) for _ in range(n_devices)]
        for i in range(n_each):
            for device_id, device in enumerate(devices):
                payload = f"{device_id}.{i}".ljust(n_bytes).encode()
                device.client.publish(f"ef/1/{fleet}/dev/{device_id}/up/update", payload, qos=1)
        heard: set[bytes] = set()
        for _ in range(n_devices * n_each):
            [message] = receiver.receive(1)
            time.sleep(0.002)  # a write to disk
            receiver.client.ack(message.mid, message.qos)
            heard.add(bytes(message.payload).strip())
        assert len(heard) == n_devices * n_each
        for device in devices:
            device.close()


def test_a_wildcard_subscription_hears_every_device_and_nothing_else(target: Target) -> None:
    fleet = fresh("f")
    with Peer(target) as sender, Peer(target).subscribe(f"ef/1/{fleet}/dev/+/up/+") as receiver:
        sender.publish(f"ef/1/{fleet}/dev/a/down/offer", b"no")
        sender.publish(f"ef/1/{fleet}/task/t/announce", b"no")
        sender.publish(f"ef/1/{fleet}/dev/a/up/update", b"1")
        sender.publish(f"ef/1/{fleet}/dev/b/up/hello", b"2")
        assert [message.payload for message in receiver.receive(2)] == [b"1", b"2"]


def test_a_second_client_of_the_same_id_takes_over(target: Target) -> None:
    topic, client_id = fresh("takeover"), fresh("twin")
    with (
        Peer(target) as sender,
        Peer(target, client_id) as first,
        Peer(target, client_id).subscribe(topic) as second,
    ):
        first.expect("disconnected")
        sender.publish(topic, b"for the second")
        assert second.receive(1)[0].payload == b"for the second"


def test_a_lost_client_leaves_its_last_will(target: Target) -> None:
    topic = fresh("will")
    with Peer(target).subscribe(topic) as watcher:
        mortal = Peer(target, will=(topic, b"gone"))
        mortal.drop()
        assert watcher.receive(1)[0].payload == b"gone"


def test_a_client_that_says_goodbye_leaves_no_will(target: Target) -> None:
    topic = fresh("will")
    with Peer(target).subscribe(topic) as watcher:
        Peer(target, will=(topic, b"gone")).close()
        assert not watcher.hears_something()


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls"),
        pytest.param(b"\x10\xff\xff\xff\xff\xff", id="endless-length"),
        pytest.param(b"\x10\x0c\x00\x04MQTT\x63\x02\x00\x3c\x00\x00", id="mqtt-99"),
        pytest.param(b"\x30\x7f", id="publish-before-connect"),
        pytest.param(bytes(range(256)) * 64, id="noise"),
    ],
)
def test_malformed_bytes_harm_nobody_else(target: Target, noise: bytes) -> None:
    topic = fresh("malformed")
    with Peer(target).subscribe(topic) as bystander:
        with socket.create_connection((target.host, target.port), timeout=WAIT_S) as stranger:
            stranger.sendall(noise)
        with Peer(target) as sender:
            sender.publish(topic, b"still here")
        assert bystander.receive(1)[0].payload == b"still here"


def test_a_packet_above_the_limit_is_refused_and_harms_nobody_else(target: Target) -> None:
    topic = fresh("oversize")
    with Peer(target).subscribe(topic) as bystander, Peer(target) as giant:
        giant.client.publish(topic, bytes(MAX_PACKET_BYTES + 1024), qos=1)
        giant.expect("disconnected")
        with Peer(target) as sender:
            sender.publish(topic, b"small")
        assert bystander.receive(1)[0].payload == b"small"


def test_fifty_idle_clients_cost_no_message(target: Target) -> None:
    crowd: list[Peer] = []
    try:
        crowd.extend(Peer(target).subscribe(fresh("own")) for _ in range(50))
        topic = fresh("crowded")
        with Peer(target) as sender, Peer(target).subscribe(topic) as receiver:
            sender.publish(topic, b"through the crowd")
            assert receiver.receive(1)[0].payload == b"through the crowd"
        assert all(peer.client.is_connected() for peer in crowd)
    finally:
        for peer in crowd:
            peer.close()


# --- what a broker may lack, and then says so --------------------------------------------------------------------


def test_a_retained_message_reaches_a_later_subscriber_as_declared(target: Target) -> None:
    topic = fresh("retained")
    with Peer(target) as sender:
        sender.publish(topic, b"announce", retain=True)
        with Peer(target).subscribe(topic) as late:
            assert late.hears_something() == target.facts.retained


def test_an_empty_payload_clears_a_retained_message(target: Target) -> None:
    topic = fresh("retained")
    with Peer(target) as sender:
        sender.publish(topic, b"announce", retain=True)
        sender.publish(topic, b"", retain=True)
        with Peer(target).subscribe(topic) as late:
            assert not late.hears_something()


def test_a_retained_message_is_the_newest_one(target: Target) -> None:
    if not target.facts.retained:
        pytest.skip("declared: no retained messages")
    topic = fresh("retained")
    with Peer(target) as sender:
        for text in (b"old", b"new"):
            sender.publish(topic, text, retain=True)
        with Peer(target).subscribe(topic) as late:
            assert late.receive(1)[0].payload == b"new"
            assert not late.hears_something()


@pytest.mark.parametrize("is_polite", [True, False], ids=["disconnect", "lost-link"])
def test_messages_wait_for_an_offline_session_as_declared(target: Target, *, is_polite: bool) -> None:
    topic, client_id = fresh("offline"), fresh("sleeper")
    sleeper = Peer(target, client_id, clean=False).subscribe(topic)
    if is_polite:
        sleeper.close()
    else:
        sleeper.drop()
    with Peer(target) as sender:
        for i in range(20):
            sender.publish(topic, str(i).encode())
    with Peer(target, client_id, clean=False) as woken:
        if not target.facts.offline_queueing:
            assert not woken.hears_something()
            return
        assert [int(message.payload) for message in woken.receive(20)] == list(range(20))
        assert woken.is_session_present


def test_unacknowledged_messages_come_again_as_declared(target: Target) -> None:
    topic, client_id = fresh("unacked"), fresh("forgetful")
    first = Peer(target, client_id, clean=False, manual_ack=True).subscribe(topic)
    with Peer(target) as sender:
        for text in (b"a", b"b", b"c"):
            sender.publish(topic, text)
        [acked, _, _] = first.receive(3)
        first.client.ack(acked.mid, acked.qos)
        time.sleep(0.2)  # let the PUBACK leave before the link is cut
        first.drop()
        with Peer(target, client_id, clean=False, manual_ack=True) as second:
            if not target.facts.redelivers_unacked:
                assert not second.hears_something()
                return
            again = [bytes(message.payload) for message in second.receive(2)]
            assert again == [b"b", b"c"]


def test_a_session_holds_a_bounded_number_unacknowledged_and_the_rest_follows(target: Target) -> None:
    topic, n_messages = fresh("inflight"), 3 * MAX_INFLIGHT
    with Peer(target) as sender, Peer(target, clean=False, manual_ack=True).subscribe(topic) as receiver:
        for info in [sender.client.publish(topic, str(i), qos=1) for i in range(n_messages)]:
            info.wait_for_publish(WAIT_S)
        received: list[int] = []
        while len(received) < n_messages:
            batch = receiver.receive(MAX_INFLIGHT)
            for message in batch:
                receiver.client.ack(message.mid, message.qos)
            received.extend(int(message.payload) for message in batch)
        assert received == list(range(n_messages))


def test_acknowledging_out_of_order_is_borne_as_declared(target: Target) -> None:
    topic, client_id = fresh("unordered"), fresh("hasty")
    receiver = Peer(target, client_id, clean=False, manual_ack=True).subscribe(topic)
    with Peer(target) as sender:
        for text in (b"a", b"b", b"c"):
            sender.publish(topic, text)
        for message in reversed(receiver.receive(3)):
            receiver.client.ack(message.mid, message.qos)
        if target.facts.tolerates_unordered_acks:
            sender.publish(topic, b"d")
            assert receiver.receive(1)[0].payload == b"d"
            receiver.close()
            return
        receiver.expect("disconnected")
        receiver.client.loop_stop()


def test_a_clean_session_forgets(target: Target) -> None:
    topic, client_id = fresh("clean"), fresh("amnesiac")
    Peer(target, client_id, clean=False).subscribe(topic).close()
    Peer(target, client_id, clean=True).close()
    with Peer(target) as sender:
        sender.publish(topic, b"too late")
    with Peer(target, client_id, clean=False) as woken:
        assert not woken.hears_something()


def test_the_largest_packet_is_announced_as_declared(target: Target) -> None:
    if target.protocol != "5":
        pytest.skip("CONNACK has properties in MQTT 5 only")
    with Peer(target) as peer:
        announced = getattr(peer.connack, "MaximumPacketSize", None)
        assert (announced is not None) == target.facts.announces_max_packet


def test_clients_of_both_versions_meet_on_one_broker(kind: subject.BrokerKind, tmp_path: Path) -> None:
    topic = fresh("versions")
    with broker_of(kind, tmp_path) as process:
        old, new = target_of(process, "3.1.1"), target_of(process, "5")
        assert (old.port != new.port) == process.facts.mqtt311_on_own_port
        with Peer(old).subscribe(topic) as old_peer, Peer(new).subscribe(topic) as new_peer:
            old_peer.publish(topic, b"from the old")
            new_peer.publish(topic, b"from the new")
            for peer in (old_peer, new_peer):
                assert {bytes(message.payload) for message in peer.receive(2)} == {b"from the old", b"from the new"}


# --- the process ---------------------------------------------------------------------------------------------------


def test_it_reports_what_it_is(kind: subject.BrokerKind, tmp_path: Path) -> None:
    with broker_of(kind, tmp_path) as process:
        assert process.kind == kind
        assert any(digit in process.version for digit in "0123456789")
        assert process.facts == subject.FACTS[process.kind]


def test_it_is_gone_when_stop_returns(kind: subject.BrokerKind, tmp_path: Path) -> None:
    with broker_of(kind, tmp_path / "a folder with spaces") as process:
        pid, port = process.pid, process.port
        assert pid is not None
    assert process.pid is None
    assert not psutil.pid_exists(pid)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((process.host, port), WAIT_S)


def test_it_listens_on_loopback_only(kind: subject.BrokerKind, tmp_path: Path) -> None:
    with broker_of(kind, tmp_path) as process:
        listening = psutil.Process(process.pid).net_connections(kind="inet")
        addresses = {link.laddr for link in listening if link.status == psutil.CONN_LISTEN}
        expected = {("127.0.0.1", process.port), ("127.0.0.1", process.mqtt311_port)}
        assert {(address.ip, address.port) for address in addresses} == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "broker.example", ""])  # noqa: S104 - to be refused
def test_a_host_beyond_loopback_is_refused(kind: subject.BrokerKind, tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r"broker\.host .* 127\.0\.0\.1 only"):
        subject.BrokerConfig(kind=kind, folder=tmp_path, host=host)


def test_a_port_in_use_fails_in_one_clear_line(kind: subject.BrokerKind, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        with pytest.raises(ConfigError) as failure, broker_of(kind, tmp_path, port=port):
            pass
        assert str(port) in str(failure.value)
        assert "in use" in str(failure.value)
        assert "\n" not in str(failure.value)


def test_a_folder_that_cannot_be_made_fails_in_one_clear_line(kind: subject.BrokerKind, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write the broker's folder"), broker_of(kind, tmp_path / "file"):
        pass


def test_a_missing_program_is_named_with_its_remedy(kind: subject.BrokerKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "is_available", lambda _kind: False)
    with pytest.raises(ConfigError, match="install"):
        subject.choose_broker(kind)


def test_a_broken_start_quotes_the_log(
    kind: subject.BrokerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for writer in ("mosquitto_config", "rumqttd_config"):
        monkeypatch.setattr(subject, writer, lambda *_args, **_ports: "no such key\n")
    with pytest.raises(TransportError, match=r"ended while it started: .*\bno\b"), broker_of(kind, tmp_path):
        pass


def test_starting_twice_is_the_callers_bug(kind: subject.BrokerKind, tmp_path: Path) -> None:
    with broker_of(kind, tmp_path) as process, pytest.raises(LocalProtocolError):
        process.start()


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM], ids=["kill-9", "term"])
def test_it_starts_again_on_the_same_port_and_folder_after_a_death(
    kind: subject.BrokerKind, tmp_path: Path, death: signal.Signals
) -> None:
    with broker_of(kind, tmp_path) as process:
        port, topic = process.port, fresh("again")
        lost = Peer(target_of(process, "5"), clean=False).subscribe(topic)  # a live link leaves TIME_WAIT on the port
        assert process.pid is not None
        os.kill(process.pid, death)
        lost.expect("disconnected")
        lost.client.loop_stop()
        wait_until(lambda: not process.is_alive)
        process.start()
        assert process.port == port
        for protocol in PROTOCOLS:
            with Peer(target_of(process, protocol)).subscribe(topic) as peer:
                peer.publish(topic, b"again")
                assert peer.receive(1)[0].payload == b"again"


def test_what_is_queued_outlives_an_orderly_restart_as_declared(kind: subject.BrokerKind, tmp_path: Path) -> None:
    queued, retained, client_id = fresh("queued"), fresh("retained"), fresh("sleeper")
    with broker_of(kind, tmp_path) as process:
        target = target_of(process, "5")
        Peer(target, client_id, clean=False).subscribe(queued).close()
        with Peer(target) as sender:
            sender.publish(queued, b"queued")
            sender.publish(retained, b"retained", retain=True)
        process.stop()
        process.start()
        with Peer(target, client_id, clean=False) as woken, Peer(target).subscribe(retained) as late:
            assert woken.hears_something() == process.facts.queue_survives_restart
            assert late.hears_something() == process.facts.queue_survives_restart


def test_it_dies_with_its_owner(kind: subject.BrokerKind, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER_SCRIPT, kind, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        broker_process = psutil.Process(int(owner.stdout.readline()))
        assert broker_process.is_running()
        owner.kill()
    wait_until(lambda: not broker_process.is_running() or broker_process.status() == psutil.STATUS_ZOMBIE)


def test_it_outlives_the_thread_that_started_it(kind: subject.BrokerKind, tmp_path: Path) -> None:
    process = subject.BrokerProcess(subject.BrokerConfig(kind=kind, folder=tmp_path))
    starter = threading.Thread(target=process.start)
    starter.start()
    starter.join(WAIT_S)
    try:
        time.sleep(QUIET_S)
        assert process.is_alive
    finally:
        process.stop()


# --- choosing ------------------------------------------------------------------------------------------------------


def test_auto_prefers_mosquitto_and_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "is_available", lambda _kind: True)
    assert subject.choose_broker("auto") == "mosquitto"
    monkeypatch.setattr(subject, "is_available", lambda kind: kind == "embedded")
    assert subject.choose_broker() == "embedded"


def test_auto_without_any_broker_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "is_available", lambda _kind: False)
    with pytest.raises(ConfigError, match="no broker is installed"):
        subject.choose_broker("auto")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rabbit"):
        subject.choose_broker(cast("subject.BrokerKind", "rabbit"))
    with pytest.raises(ConfigError, match="rabbit"):
        subject.BrokerConfig(kind=cast("subject.BrokerKind", "rabbit"), folder=tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", 65_536),
        ("mqtt311_port", -1),
        ("max_packet_bytes", 0),
        ("max_packet_bytes", 1 << 28),
        ("max_queued_bytes", 1024),
        ("max_queued_messages", 0),
        ("max_connections", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(tmp_path: Path, key: str, value: int) -> None:
    values: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError, match=rf"broker\.{key} = {value}"):
        subject.BrokerConfig(kind="embedded", folder=tmp_path, **values)
