"""The MQTT link, by paho-mqtt: MQTT 5 where the broker has it, 3.1.1 otherwise; QoS 1, persistent session, manual acks.

Laws: paho's own reconnecting and offline queueing are off (it retries without jitter, and an oversized message for
ever): one thread of ours connects, runs paho's loop, and after a loss waits a fully jittered, bounded time. A payload
above the broker's stated limit is refused here. Memory: ``MAX_QUEUED_EVENTS`` messages.
"""

from __future__ import annotations

import queue
import random
import threading
from typing import TYPE_CHECKING, Any, Final, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from host.link import BrokerAddress, LinkDown, LinkEvent, LinkUp, Received

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_QUEUED_EVENTS", "MqttLink"]

MAX_QUEUED_EVENTS: Final = 64  # times a message's size bounds memory; the broker holds the rest
_MAX_OUTGOING: Final = 64
_KEEPALIVE_S: Final = 30  # a dead peer is noticed after 1.5 of this (MQTT 5, section 3.1.2.10)
_SESSION_EXPIRY_S: Final = 7 * 24 * 3600  # a device that is away for a week finds its messages
_FIRST_WAIT_S: Final = 0.5
_MAX_WAIT_S: Final = 30.0
_CONNECT_TIMEOUT_S: Final = 10.0
_PUT_POLL_S: Final = 0.2
# What brokers without MQTT 5 do with it: refuse the protocol (0x84, or 1 in 3.1.1), or close the connection.
_NO_MQTT_5: Final = ("Unsupported protocol version", "Connection Refused: unacceptable protocol version.")


class MqttLink:
    """One party's connection; implements ``host.link.Link``."""

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        filters: Sequence[str],
        mqtt: Literal["auto", "5", "3.1.1"] = "auto",
    ) -> None:
        """Start connecting in the background."""
        self._address, self._client_id, self._filters = address, client_id, list(filters)
        self._mqtt: Literal["5", "3.1.1"] = "3.1.1" if mqtt == "3.1.1" else "5"
        self._may_fall_back = mqtt == "auto"
        self._events: queue.Queue[LinkEvent] = queue.Queue(MAX_QUEUED_EVENTS)
        self._closing = threading.Event()
        self._connected = False
        self._max_packet_bytes: int | None = None
        self._client = self._make_client()
        self._random = random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hand a message (QoS 1) to the live connection; False if there is none or it would be refused."""
        if not self._connected:
            return False
        if self._max_packet_bytes is not None and len(payload) + len(topic) + 64 > self._max_packet_bytes:
            return False
        return self._client.publish(topic, payload, qos=1, retain=retain).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def receive(self, timeout_s: float) -> LinkEvent | None:
        """Return the next event, or None after ``timeout_s``."""
        try:
            return self._events.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return None

    def acknowledge(self, message: Received) -> None:
        """Send PUBACK, unless the connection on which the message came is gone (then it comes again)."""
        match message.token:
            case (client, int(mid)) if client is self._client:
                self._client.ack(mid, 1)

    def close(self) -> None:
        """Disconnect and wait for the thread."""
        self._closing.set()
        self._client.disconnect()
        self._thread.join(_CONNECT_TIMEOUT_S)

    def _run(self) -> None:
        n_failures = 0
        while not self._closing.is_set():
            was_connected = self._connect_and_loop()
            if self._closing.is_set():
                return
            n_failures = 0 if was_connected else n_failures + 1
            longest = min(_MAX_WAIT_S, _FIRST_WAIT_S * 2.0**n_failures)
            self._closing.wait(self._random.uniform(0, longest))  # full jitter: a fleet must not come back at once
            self._client = self._make_client()

    def _connect_and_loop(self) -> bool:
        self._was_connected = False
        try:
            self._client.connect(self._address.host, self._address.port, keepalive=_KEEPALIVE_S, **self._session())
            self._client.loop_forever()
        except (OSError, ValueError) as error:  # paho raises ValueError when the peer speaks no MQTT
            self._put(LinkDown(why=f"{self._address.host}:{self._address.port}: {error}"))
        finally:
            self._connected = False
        return self._was_connected

    def _session(self) -> dict[str, Any]:
        if self._mqtt == "3.1.1":
            return {}
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = _SESSION_EXPIRY_S
        return {"clean_start": False, "properties": properties}

    def _make_client(self) -> paho.Client:
        is_5 = self._mqtt == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if is_5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if is_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_queued_messages_set(_MAX_OUTGOING)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_subscribe = self._on_message, self._on_subscribe
        return client

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:  # noqa: ANN401, PLR0913 - paho's signature
        if reason.is_failure:
            self._fall_back(str(reason))
            self._put(LinkDown(why=f"the broker refused the connection: {reason}"))
            client.disconnect()
            return
        self._was_connected = True
        self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        if self._filters:
            client.subscribe([(one, 1) for one in self._filters])
        else:
            self._up()

    def _on_subscribe(self, _client: paho.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:  # noqa: ANN401, PLR0913 - paho's signature
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._put(LinkDown(why=f"the broker refused a subscription: {refused[0]}"))
            return
        self._up()

    def _up(self) -> None:
        self._connected = True
        self._put(LinkUp(mqtt=self._mqtt, max_packet_bytes=self._max_packet_bytes))

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:  # noqa: ANN401, PLR0913 - paho's signature
        self._connected = False
        if not self._was_connected:
            self._fall_back(_NO_MQTT_5[0])  # closed before CONNACK: perhaps it does not know MQTT 5
        if not self._closing.is_set():
            self._put(LinkDown(why=str(reason)))

    def _fall_back(self, reason: str) -> None:
        if self._may_fall_back and reason in _NO_MQTT_5:
            self._mqtt = "3.1.1" if self._mqtt == "5" else "5"

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:  # noqa: ANN401 - paho's signature
        self._put(Received(topic=message.topic, payload=bytes(message.payload), token=(client, message.mid)))

    def _put(self, event: LinkEvent) -> None:
        # Blocks paho's loop while the owner is busy: the socket fills and the broker waits.
        while not self._closing.is_set():
            try:
                return self._events.put(event, timeout=_PUT_POLL_S)
            except queue.Full:
                continue
        return None
