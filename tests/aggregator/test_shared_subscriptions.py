"""What Mosquitto's shared subscriptions do when a consumer dies: what docs/scale.md says of them, held to.

Ingest workers (``docs/adr/0030-ingest-workers.md``) are built on these facts.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from aggregator.adapters.broker import BrokerConfig, BrokerProcess, is_available

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

N = 10
WAIT_S = 20.0

pytestmark = pytest.mark.skipif(not is_available("mosquitto"), reason="mosquitto is not installed")


class Consumer:
    """A member of a group; it acknowledges only if told so."""

    def __init__(self, port: int, name: str, *, acknowledges: bool, expiry_s: int) -> None:
        self.got: list[int] = []
        self._is_subscribed = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5, manual_ack=True)
        self.client.on_subscribe = lambda *_: self._is_subscribed.set()

        def heard(client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
            self.got.append(int(message.payload))
            if acknowledges:
                client.ack(message.mid, message.qos)

        self.client.on_message = heard
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = expiry_s
        self.client.connect("127.0.0.1", port, clean_start=False, properties=properties)
        self.client.loop_start()
        self.client.subscribe("$share/fold/updates/#", qos=1)
        assert self._is_subscribed.wait(WAIT_S)

    def die(self) -> None:
        """End the connection without a word, as kill -9 does."""
        self.client.loop_stop()
        sock = self.client.socket()
        assert sock is not None
        sock.close()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("expiry_s", "n_lost"), [(3600, 0), (0, N)], ids=["persistent", "ends with the connection"])
def test_what_a_dead_consumer_held_waits_for_it_alone_or_is_lost(tmp_path: Path, expiry_s: int, n_lost: int) -> None:
    with BrokerProcess(BrokerConfig(kind="mosquitto", folder=tmp_path)) as broker:
        dying = Consumer(broker.port, "dying", acknowledges=False, expiry_s=expiry_s)
        living = Consumer(broker.port, "living", acknowledges=True, expiry_s=expiry_s)
        sender = paho.Client(CallbackAPIVersion.VERSION2, client_id="sender", protocol=paho.MQTTv5)
        sender.connect("127.0.0.1", broker.port)
        sender.loop_start()

        def send(first: int) -> None:
            for number in range(first, first + 2 * N):
                sender.publish("updates/x", str(number).encode(), qos=1).wait_for_publish(WAIT_S)

        send(0)
        wait_until(lambda: len(dying.got) == len(living.got) == N)  # in turn
        held = set(dying.got)
        dying.die()
        time.sleep(0.5)
        send(2 * N)
        # Mosquitto 2.0.11 goes on handing every other message to a session whose client is away.
        wait_until(lambda: len(living.got) == (2 * N if expiry_s else 3 * N))
        again = Consumer(broker.port, "dying", acknowledges=True, expiry_s=expiry_s)
        wait_until(lambda: len(again.got) == (2 * N if expiry_s else 0))
        time.sleep(0.3)
        missing = set(range(4 * N)) - set(again.got) - set(living.got)
        assert len(missing) == n_lost
        assert missing <= held
        for client in (again.client, living.client, sender):
            client.disconnect()
            client.loop_stop()
