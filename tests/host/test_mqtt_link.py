"""What only the MQTT link promises: it comes back by itself, falls back to MQTT 3.1.1, and survives strange brokers."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from host.link import BrokerAddress, LinkDown, LinkUp, parse_broker_url
from host.mqtt_link import MAX_QUEUED_EVENTS, MqttLink
from protocol.errors import ConfigError
from tests.faults.proxy import FlappingNetwork
from tests.host import mosquitto
from tests.host.test_link_contract import expect, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

needs_mosquitto = pytest.mark.skipif(mosquitto.BINARY is None, reason=mosquitto.MISSING)


def threads() -> list[str]:
    """Return the names of the links' threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name == "mqtt-link"]


def address(port: int) -> BrokerAddress:
    """Return a loopback address."""
    return BrokerAddress(host="127.0.0.1", port=port)


@contextlib.contextmanager
def stranger(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on a free port, and hand each connection to ``answer``; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as one:
                        one.settimeout(2)
                        answer(one)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@needs_mosquitto
@pytest.mark.parametrize("mqtt", ["5", "3.1.1"])
def test_it_reconnects_after_kill_9_of_the_broker_and_finds_its_messages(tmp_path: Path, mqtt: str) -> None:
    broker = mosquitto.Mosquitto(tmp_path).start()
    link = MqttLink(address(broker.port), client_id="a", filters=["a"], mqtt=mqtt)  # type: ignore[arg-type]
    try:
        expect(link, LinkUp)
        for _ in range(2):
            broker.kill()
            assert expect(link, LinkDown).why
            broker.start()
            expect(link, LinkUp)
            assert link.publish("a", b"x")
            assert take(link).payload == b"x"
    finally:
        link.close()
        broker.kill()
    assert threads() == []


@needs_mosquitto
def test_it_waits_for_a_broker_that_comes_later(tmp_path: Path) -> None:
    broker = mosquitto.Mosquitto(tmp_path)
    link = MqttLink(address(broker.port), client_id="a", filters=["a"])
    try:
        assert "refused" in expect(link, LinkDown).why
        assert link.publish("a", b"x") is False
        broker.start()
        assert expect(link, LinkUp).mqtt == "5"
    finally:
        link.close()
        broker.kill()


@needs_mosquitto
def test_messages_wait_for_a_party_that_was_away(tmp_path: Path) -> None:
    broker = mosquitto.Mosquitto(tmp_path).start()
    try:
        for _ in range(2):
            away = MqttLink(address(broker.port), client_id="away", filters=["a"])
            expect(away, LinkUp)
            away.close()
        sender = MqttLink(address(broker.port), client_id="sender", filters=[])
        expect(sender, LinkUp)
        assert sender.publish("a", b"waiting")
        time.sleep(0.1)
        sender.close()
        back = MqttLink(address(broker.port), client_id="away", filters=["a"])
        assert take(back).payload == b"waiting"
        back.close()
    finally:
        broker.kill()


@needs_mosquitto
def test_an_owner_that_is_busy_makes_the_broker_wait_and_loses_nothing(tmp_path: Path) -> None:
    broker = mosquitto.Mosquitto(tmp_path, config="max_queued_messages 0\nmax_inflight_messages 0\n").start()
    link = MqttLink(address(broker.port), client_id="busy", filters=["a"])
    sender = MqttLink(address(broker.port), client_id="sender", filters=[])
    n_messages = 3 * MAX_QUEUED_EVENTS
    try:
        expect(link, LinkUp)
        expect(sender, LinkUp)
        for number in range(n_messages):
            while not sender.publish("a", b"%d" % number):
                time.sleep(0.01)
        assert [int(take(link).payload) for _ in range(n_messages)] == list(range(n_messages))
    finally:
        link.close()
        sender.close()
        broker.kill()


@needs_mosquitto
def test_a_burst_of_short_answers_is_sent_whole(tmp_path: Path) -> None:
    n = 5_000  # devices that call at once
    broker = mosquitto.Mosquitto(tmp_path, config="max_queued_messages 0\nmax_inflight_messages 0\n").start()
    service = MqttLink(address(broker.port), client_id="service", filters=[])
    listener = MqttLink(address(broker.port), client_id="device", filters=["answers"])
    try:
        expect(service, LinkUp)
        expect(listener, LinkUp)
        assert all(service.publish("answers", b"%d" % i) for i in range(n))
        arrived = set()
        while len(arrived) < n:
            message = take(listener)
            arrived.add(message.payload)
            listener.acknowledge(message)
    finally:
        service.close()
        listener.close()
        broker.kill()


@needs_mosquitto
def test_more_than_the_bound_is_refused_until_the_broker_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.mqtt_link.MAX_OUTGOING_BYTES", 200_000)
    broker = mosquitto.Mosquitto(tmp_path).start()
    link = MqttLink(address(broker.port), client_id="a", filters=[])
    try:
        expect(link, LinkUp)
        broker.pause()  # takes nothing
        accepted = [link.publish("a", bytes(50_000)) for _ in range(6)]
        assert accepted == [True, True, True, False, False, False]
        broker.resume()
        deadline_s = time.monotonic() + 20
        while not link.publish("a", bytes(150_000)):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    finally:
        broker.resume()
        link.close()
        broker.kill()


@needs_mosquitto
def test_large_messages_from_many_threads_are_not_torn(tmp_path: Path) -> None:
    broker = mosquitto.Mosquitto(tmp_path, config="max_queued_messages 0\n").start()
    link = MqttLink(address(broker.port), client_id="a", filters=["a"])
    # Each is more than a socket buffer takes at once; many, since a torn packet needs two threads at the same moment.
    payloads = [number.to_bytes(2) + bytes(300_000) for number in range(500)]

    def publish(some: list[bytes]) -> None:
        for one in some:
            while not link.publish("a", one):
                time.sleep(0.001)

    try:
        expect(link, LinkUp)
        senders = [threading.Thread(target=publish, args=(payloads[start::4],)) for start in range(4)]
        for sender in senders:
            sender.start()
        assert sorted(take(link).payload for _ in payloads) == payloads
        for sender in senders:
            sender.join()
    finally:
        link.close()
        broker.kill()


def test_a_refused_subscription_is_one_link_down() -> None:
    def refuse(one: socket.socket) -> None:
        one.recv(1024)  # CONNECT
        one.sendall(bytes([0x20, 2, 0, 0]))  # CONNACK of MQTT 3.1.1, section 3.2
        subscribe = one.recv(1024)
        one.sendall(bytes([0x90, 3, *subscribe[2:4], 0x80]))  # SUBACK with a failure, section 3.9.3
        one.recv(1024)

    with stranger(refuse) as port:
        link = MqttLink(address(port), client_id="a", filters=["a"], mqtt="3.1.1")
        assert "refused a subscription" in expect(link, LinkDown).why
        assert link.publish("a", b"x") is False
        assert "refused a subscription" in expect(link, LinkDown).why
        link.close()


def serve_3_1_1_only(one: socket.socket, *, polite: bool) -> None:
    """Answer as a broker that knows MQTT 3.1.1 alone: refuse the protocol, or hang up."""
    connect = one.recv(1024)
    if connect[8] == 5:  # the protocol level, after a fixed header of 2 and a name of 6 bytes
        if polite:
            one.sendall(bytes([0x20, 2, 0, 1]))
        return
    one.sendall(bytes([0x20, 2, 0, 0]))
    with contextlib.suppress(OSError):
        while one.recv(1024):
            pass


@pytest.mark.parametrize("polite", [True, False])
def test_it_falls_back_to_3_1_1_where_the_broker_knows_nothing_newer(*, polite: bool) -> None:
    with stranger(lambda one: serve_3_1_1_only(one, polite=polite)) as port:
        link = MqttLink(address(port), client_id="a", filters=[])
        up = expect(link, LinkUp)
        link.close()
    assert up == LinkUp(mqtt="3.1.1", max_packet_bytes=None)


def test_it_does_not_fall_back_when_told_to_speak_5() -> None:
    with stranger(lambda one: serve_3_1_1_only(one, polite=True)) as port:
        link = MqttLink(address(port), client_id="a", filters=[], mqtt="5")
        assert "Unsupported protocol version" in expect(link, LinkDown).why
        assert "Unsupported protocol version" in expect(link, LinkDown).why
        link.close()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x02", b"\x20\x00", b"\xff" * 64, b"\x20\x7f" + b"\xff" * 127]
)
def test_a_peer_that_speaks_no_mqtt_is_a_link_down_and_not_the_end_of_the_link(answer: bytes) -> None:
    def talk(one: socket.socket) -> None:
        one.recv(1024)
        one.sendall(answer)

    with stranger(talk) as port:
        link = MqttLink(address(port), client_id="a", filters=["a"])
        for _ in range(2):
            assert str(port) in expect(link, LinkDown).why
        link.close()


def test_closing_while_there_is_no_broker_does_not_wait() -> None:
    link = MqttLink(address(mosquitto.free_port()), client_id="a", filters=["a"])
    expect(link, LinkDown)
    began = time.monotonic()
    link.close()
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://127.0.0.1:1884", BrokerAddress(host="127.0.0.1", port=1884)),
        ("mqtt://localhost", BrokerAddress(host="localhost", port=1883)),
        ("mqtt://[::1]:1885/", BrokerAddress(host="::1", port=1885)),
    ],
)
def test_a_broker_url_is_host_and_port(url: str, expected: BrokerAddress) -> None:
    assert parse_broker_url(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:1883", "http://127.0.0.1", "mqtt://", "mqtt://127.0.0.1:0", "mqtt://127.0.0.1:99999",
     "mqtt://127.0.0.1:x", "mqtt://127.0.0.1/path", "mqtt://127.0.0.1?x=1", "mqtt://broker.example:1883", "mqtts://", "mqtts://broker.example/path"],
)  # fmt: skip
def test_any_other_broker_url_is_a_config_error_that_names_the_key(url: str) -> None:
    with pytest.raises(ConfigError, match=r"broker\.url"):
        parse_broker_url(url)


def test_a_password_in_a_broker_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_broker_url("mqtt://me:hunter2@127.0.0.1")
    assert "hunter2" not in str(refused.value)


@needs_mosquitto
def test_another_way_to_the_broker_is_tried_in_turn_and_kept_while_it_works(tmp_path: Path) -> None:
    broker = mosquitto.Mosquitto(tmp_path).start()
    network = FlappingNetwork(broker.port, seed=1)
    blocked = address(mosquitto.free_port())
    link = MqttLink(blocked, client_id="a", filters=["t"], fallback=address(network.port))
    try:
        assert str(blocked.port) in expect(link, LinkDown).why
        expect(link, LinkUp)
        network.cut()
        assert str(network.port) in expect(link, LinkDown).why
        network.heal()
        expect(link, LinkUp)
    finally:
        link.close()
        network.close()
        broker.stop()
