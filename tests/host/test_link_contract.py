"""One contract for every ``host.link.Link``: the in-memory twin, and the MQTT link against a real Mosquitto."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import pytest

from host.link import BrokerAddress, Link, LinkDown, LinkUp, Received
from host.memory_link import MemoryBroker
from host.mqtt_link import MqttLink
from tests.host import mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

WAIT_S = 10.0  # the slowest step takes about a second on a loaded machine
QUIET_S = 0.3  # loopback delivery takes about a millisecond
MAX_PACKET_BYTES = 1 << 20

E = TypeVar("E", Received, LinkUp, LinkDown)


class Harness(Protocol):
    """A broker that can break, and links to it."""

    def link(self, *filters: str) -> Link: ...
    def down(self) -> None: ...
    def up(self) -> None: ...


class MemoryHarness:
    """The in-memory broker."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(max_packet_bytes=MAX_PACKET_BYTES)

    def link(self, *filters: str) -> Link:
        return self.broker.link(filters)

    def down(self) -> None:
        self.broker.drop()

    def up(self) -> None:
        self.broker.restore()


class MqttHarness:
    """A Mosquitto process."""

    def __init__(self, folder: Path, mqtt: Literal["auto", "5", "3.1.1"]) -> None:
        config = f"message_size_limit 0\nmax_packet_size {MAX_PACKET_BYTES}\n"
        self.broker = mosquitto.Mosquitto(folder, config=config).start()
        self._mqtt = mqtt
        self._links: list[MqttLink] = []

    def link(self, *filters: str) -> Link:
        link = self.connect(str(uuid.uuid4()), filters)
        until = time.monotonic() + WAIT_S
        while not link.is_up and time.monotonic() < until:
            time.sleep(0.005)
        return link

    def connect(self, client_id: str, filters: Sequence[str]) -> MqttLink:
        address = BrokerAddress(host="127.0.0.1", port=self.broker.port)
        self._links.append(MqttLink(address, client_id=client_id, filters=filters, mqtt=self._mqtt))
        return self._links[-1]

    def down(self) -> None:
        self.broker.stop()

    def up(self) -> None:
        self.broker.start()

    def close(self) -> None:
        for link in self._links:
            link.close()
        self.broker.kill()


@pytest.fixture(params=["memory", "mqtt-5", "mqtt-3.1.1"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    if request.param == "memory":
        yield MemoryHarness()
        return
    if mosquitto.BINARY is None:
        pytest.skip(mosquitto.MISSING)
    real = MqttHarness(tmp_path, request.param.removeprefix("mqtt-"))
    yield real
    real.close()


def expect(link: Link, kind: type[E], *, wait_s: float = WAIT_S) -> E:
    """Return the next event of ``kind``, passing over link events of other kinds."""
    until = time.monotonic() + wait_s
    while (left := until - time.monotonic()) > 0:
        event = link.receive(left)
        if isinstance(event, kind):
            return event
        assert not isinstance(event, Received), event
    raise TimeoutError(f"no {kind.__name__}")


def take(link: Link) -> Received:
    """Return the next message and acknowledge it."""
    message = expect(link, Received)
    link.acknowledge(message)
    return message


def expect_nothing(link: Link) -> None:
    """Demand that no message comes."""
    until = time.monotonic() + QUIET_S
    while (left := until - time.monotonic()) > 0:
        assert not isinstance(link.receive(left), Received)


def test_a_link_says_that_it_is_up_before_anything_else(harness: Harness) -> None:
    assert isinstance(harness.link("a").receive(WAIT_S), LinkUp)


def test_what_is_published_arrives_once_and_in_order_at_every_matching_filter(harness: Harness) -> None:
    one, other, sender = harness.link("a/+"), harness.link("a/b", "c/#"), harness.link()
    for number in range(20):
        assert sender.publish("a/b", b"%d" % number)
    assert [take(one).payload for _ in range(20)] == [b"%d" % number for number in range(20)]
    assert [take(other).payload for _ in range(20)] == [b"%d" % number for number in range(20)]
    assert sender.publish("c/d/e", b"x")
    last = take(other)
    assert (last.topic, last.payload) == ("c/d/e", b"x")
    expect_nothing(one)


def test_large_and_empty_payloads_arrive_whole(harness: Harness) -> None:
    link = harness.link("a")
    large = bytes(range(256)) * (MAX_PACKET_BYTES // 256 - 1)
    for payload in (large, b"", large):
        assert link.publish("a", payload)
        assert take(link).payload == payload


def test_a_payload_beyond_the_brokers_limit_is_refused_and_the_link_stays(
    harness: Harness, request: pytest.FixtureRequest
) -> None:
    if "3.1.1" in request.node.callspec.id:
        pytest.skip("an MQTT 3.1.1 broker does not state its limit")
    link = harness.link("a")
    assert expect(link, LinkUp).max_packet_bytes == MAX_PACKET_BYTES
    assert link.publish("a", bytes(MAX_PACKET_BYTES + 1)) is False
    assert link.publish("a", b"small")
    assert take(link).payload == b"small"


def test_a_retained_message_comes_to_whoever_subscribes_later(harness: Harness) -> None:
    sender = harness.link()
    assert sender.publish("a", b"old", retain=True)
    assert sender.publish("a", b"new", retain=True)
    assert sender.publish("b", b"passing")
    time.sleep(0.1)
    late = harness.link("a", "b")
    assert take(late).payload == b"new"
    expect_nothing(late)


def test_an_empty_retained_message_removes_the_one_before(harness: Harness) -> None:
    sender = harness.link()
    assert sender.publish("a", b"old", retain=True)
    assert sender.publish("a", b"", retain=True)
    time.sleep(0.1)
    expect_nothing(harness.link("a"))


def test_what_was_not_acknowledged_comes_again_after_a_reconnect_and_the_rest_does_not(harness: Harness) -> None:
    link, sender = harness.link("a"), harness.link()
    expect(link, LinkUp)
    for payload in (b"1", b"2", b"3"):
        assert sender.publish("a", payload)
    got = [expect(link, Received) for _ in range(3)]
    link.acknowledge(got[0])
    link.acknowledge(got[2])
    time.sleep(0.1)
    harness.down()
    expect(link, LinkDown)
    harness.up()
    again = expect(link, LinkUp), take(link)
    assert again[1].payload == b"2"
    expect_nothing(link)


def test_an_acknowledgement_from_before_a_reconnect_does_no_harm(harness: Harness) -> None:
    link, sender = harness.link("a"), harness.link()
    expect(link, LinkUp)
    assert sender.publish("a", b"1")
    old = expect(link, Received)
    harness.down()
    expect(link, LinkDown)
    link.acknowledge(old)
    harness.up()
    expect(link, LinkUp)
    link.acknowledge(old)
    assert take(link).payload == b"1"
    expect_nothing(link)


def test_publish_is_false_while_the_link_is_down_and_true_after_it_is_up_again(harness: Harness) -> None:
    link = harness.link("a")
    expect(link, LinkUp)
    harness.down()
    expect(link, LinkDown)
    assert link.publish("a", b"lost") is False
    harness.up()
    expect(link, LinkUp)
    assert link.publish("a", b"kept")
    assert take(link).payload == b"kept"


def test_receive_returns_none_when_nothing_comes(harness: Harness) -> None:
    link = harness.link("a")
    expect(link, LinkUp)
    began = time.monotonic()
    assert link.receive(0.05) is None
    assert 0.04 < time.monotonic() - began < 1
    assert link.receive(0) is None


def test_wake_ends_a_waiting_receive(harness: Harness) -> None:
    link = harness.link("a")
    expect(link, LinkUp)
    link.wake()
    began = time.monotonic()
    assert link.receive(WAIT_S) is None
    assert time.monotonic() - began < 1


def test_a_closed_link_publishes_nothing_and_closing_twice_is_harmless(harness: Harness) -> None:
    link = harness.link("a")
    expect(link, LinkUp)
    link.close()
    link.close()
    assert link.publish("a", b"x") is False


def test_two_parties_talk_through_restarts_and_lose_nothing_that_was_acknowledged(harness: Harness) -> None:
    up, down = harness.link("to/1"), harness.link("to/2")
    for link in (up, down):
        expect(link, LinkUp)
    for number in range(2):
        assert up.publish("to/2", b"ask %d" % number)
        assert take(down).payload == b"ask %d" % number
        assert down.publish("to/1", b"answer %d" % number)
        assert take(up).payload == b"answer %d" % number
        time.sleep(0.1)
        harness.down()
        harness.up()
        for link in (up, down):
            expect(link, LinkUp)
