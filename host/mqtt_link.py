"""The MQTT link, by paho-mqtt: MQTT 5 where the broker has it, 3.1.1 otherwise; QoS 1, persistent session, manual acks.

Laws: paho's own reconnecting and offline queueing are off (it retries without jitter, and an oversized message for
ever): one thread of ours connects, runs paho's loop, and after a loss waits a fully jittered, bounded time. That thread
alone writes to the socket (see ``_make_client``). Each lost or failed connection is one ``LinkDown``. A payload above
the broker's stated limit is refused here. Memory: ``MAX_QUEUED_EVENTS`` messages in, ``MAX_OUTGOING_BYTES`` out.
"""

from __future__ import annotations

import collections
import contextlib
import queue
import random
import threading
from typing import TYPE_CHECKING, Any, Final, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from host.link import BrokerAddress, LinkDown, LinkEvent, LinkUp, Received
from protocol.errors import ConfigError, LocalProtocolError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

__all__ = ["MAX_OUTGOING_BYTES", "MAX_QUEUED_EVENTS", "MqttLink"]

MAX_QUEUED_EVENTS: Final = 64  # times a message's size bounds memory; the broker holds the rest
# What may wait to be sent: a burst of 10,000 short answers (3 MB), or some 200 adapters of 151 kB.
MAX_OUTGOING_BYTES: Final = 32 << 20
_KEEPALIVE_S: Final = 30  # a dead peer is noticed after 1.5 of this (MQTT 5, section 3.1.2.10)
_SESSION_EXPIRY_S: Final = 7 * 24 * 3600  # a device that is away for a week finds its messages
_FIRST_WAIT_S: Final = 0.5
_MAX_WAIT_S: Final = 30.0
_MAX_DOUBLINGS: Final = 10  # beyond it the wait is at its bound anyway
_CONNECT_TIMEOUT_S: Final = 10.0
_PUT_POLL_S: Final = 0.2
_PACKET_HEAD_BYTES: Final = 64  # of a PUBLISH beside topic and payload: 9, and room for properties
# What brokers without MQTT 5 do with it: refuse the protocol (0x84, or 1 in 3.1.1), or close the connection.
_NO_MQTT_5: Final = "Unsupported protocol version"
_LOOP_S: Final = 1.0  # paho looks at its keepalive this often; whatever is published wakes it at once


class MqttLink:
    """One party's connection; implements ``host.link.Link``."""

    def __init__(  # noqa: PLR0913 - what a connection has
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        filters: Sequence[str],
        mqtt: Literal["auto", "5", "3.1.1"] = "auto",
        tls: Callable[[], ssl.SSLContext] | None = None,
        is_lasting: bool = True,
        fallback: BrokerAddress | None = None,
        dropped: Sequence[str] = (),
        expiry_s: int = _SESSION_EXPIRY_S,
        max_unacknowledged: int | None = None,
    ) -> None:
        """Start connecting in the background.

        Args:
            address: where the broker is.
            client_id: the name of the session.
            filters: what to subscribe to.
            mqtt: which MQTT to speak; MQTT 5 first, where it is left open.
            tls: makes the context of each connection, for an address with TLS.
            fallback: another way to the same broker, tried in turn with ``address`` while no connection comes up.
            is_lasting: the broker keeps the session and its messages while this party is away.
            dropped: filters that a former life of this session may have subscribed to, and that hold no longer.
            expiry_s: for how long the session is kept (MQTT 5).
            max_unacknowledged: messages that the broker may send before it waits for us (MQTT 5).

        Raises:
            LocalProtocolError: an address with TLS and no ``tls``, or the reverse (the caller's fault).
        """
        for one in (address, fallback or address):
            if one.is_tls != (tls is not None):
                raise LocalProtocolError(f"{one.host}:{one.port}: TLS is of both address and link, or of none")
        self._tls, self._is_lasting = tls, is_lasting
        self._address, self._other = address, fallback or address
        self._client_id, self._filters, self._dropped = client_id, list(filters), list(dropped)
        self._expiry_s, self._max_unacknowledged = expiry_s, max_unacknowledged
        self._mqtt: Literal["5", "3.1.1"] = "3.1.1" if mqtt == "3.1.1" else "5"
        self._may_fall_back = mqtt == "auto"
        self._events: queue.Queue[LinkEvent | None] = queue.Queue(MAX_QUEUED_EVENTS)
        self._closing = threading.Event()
        self._connected = False
        self._was_up = False  # in the current attempt
        self._why: str | None = None  # what ended the current attempt, if it was the broker
        self._early: list[Received] = []
        self._max_packet_bytes: int | None = None
        self._outgoing: collections.deque[tuple[paho.MQTTMessageInfo, int]] = collections.deque()
        self._outgoing_bytes = 0
        self._publishing = threading.Lock()  # of the two before, and of which client they belong to
        self._client = self._make_client()
        self._random = random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._thread.start()

    @property
    def is_up(self) -> bool:
        """Whether the link is connected and subscribed now."""
        return self._connected

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, correlation: bytes | None = None) -> bool:
        """Hand a message (QoS 1) to the live connection; False if there is none or it would be refused."""
        if not self._connected:
            return False
        n_bytes = len(payload) + len(topic.encode()) + _PACKET_HEAD_BYTES
        if self._max_packet_bytes is not None and n_bytes > self._max_packet_bytes:
            return False
        with self._publishing:
            if not self._has_room(n_bytes):
                return False
            sent = self._client.publish(topic, payload, qos=1, retain=retain, properties=self._answering(correlation))
            if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return False
            self._outgoing.append((sent, n_bytes))
            self._outgoing_bytes += n_bytes
        return True

    def _answering(self, correlation: bytes | None) -> Properties | None:
        if correlation is None or self._mqtt != "5":
            return None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho types half of itself
        properties.CorrelationData = correlation
        return properties

    def receive(self, timeout_s: float) -> LinkEvent | None:
        """Return the next event, or None after ``timeout_s``."""
        try:
            return self._events.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return None

    def wake(self) -> None:
        """Make a waiting ``receive`` return None."""
        with contextlib.suppress(queue.Full):  # then nobody is waiting
            self._events.put_nowait(None)

    def acknowledge(self, message: Received) -> None:
        """Send PUBACK, unless the connection on which the message came is gone (then it comes again)."""
        match message.token:
            case (client, int(mid)) if client is self._client:
                self._client.ack(mid, 1)

    def close(self) -> None:
        """Disconnect and wait for the thread."""
        self._closing.set()
        self._client.disconnect()
        self._thread.join(_CONNECT_TIMEOUT_S + 2 * _LOOP_S)

    def _has_room(self, n_bytes: int) -> bool:
        # PUBACKs come in the order of the messages (MQTT 5, section 4.6), so looking at the oldest is enough.
        while self._outgoing and self._outgoing[0][0].is_published():
            self._outgoing_bytes -= self._outgoing.popleft()[1]
        return not self._outgoing or self._outgoing_bytes + n_bytes <= MAX_OUTGOING_BYTES

    def _run(self) -> None:
        n_failures = 0
        while not self._closing.is_set():
            why = self._connect_and_loop()
            self._connected = False
            if self._closing.is_set():
                return
            self._put(LinkDown(why=why))
            n_failures = 0 if self._was_up else min(n_failures + 1, _MAX_DOUBLINGS)
            if not self._was_up:
                self._address, self._other = self._other, self._address
            longest = min(_MAX_WAIT_S, _FIRST_WAIT_S * 2.0**n_failures)
            self._closing.wait(self._random.uniform(0, longest))  # full jitter: a fleet must not come back at once
            with self._publishing:
                self._client = self._make_client()
                self._outgoing.clear()
                self._outgoing_bytes = 0

    def _connect_and_loop(self) -> str:
        """Hold one connection until it ends; return why it did."""
        self._was_up, self._why, self._early = False, None, []
        client, where = self._client, f"{self._address.host}:{self._address.port}"
        try:
            if self._tls is not None:
                client.tls_set_context(self._tls())
            client.connect(self._address.host, self._address.port, keepalive=_KEEPALIVE_S, **self._session())
        except (OSError, ValueError, ConfigError) as error:  # ConfigError: the certificate's files, which may come back
            return f"{where}: {error}"
        try:
            while (code := client.loop(_LOOP_S)) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                pass
        except Exception as error:  # noqa: BLE001 - paho parses a stranger's bytes and raises whatever it meets
            self._why = f"not MQTT: {type(error).__name__}"
        self._choose_version()
        return f"{where}: {self._why or paho.error_string(code)}"

    def _choose_version(self) -> None:
        """Try the other MQTT if this broker never spoke and hung up on this one, or said that it does not know it."""
        # Hanging up without a word says nothing under TLS, where a refused certificate looks the same.
        hints = (None, _NO_MQTT_5) if self._tls is None else (_NO_MQTT_5,)
        if self._was_up:
            self._may_fall_back = False
        elif self._may_fall_back and self._why in hints:
            self._mqtt = "3.1.1" if self._mqtt == "5" else "5"

    def _session(self) -> dict[str, Any]:
        if self._mqtt == "3.1.1":
            return {}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's is untyped
        properties.SessionExpiryInterval = self._expiry_s if self._is_lasting else 0
        if self._max_unacknowledged is not None:
            properties.ReceiveMaximum = self._max_unacknowledged
        return {"clean_start": not self._is_lasting, "properties": properties}

    def _make_client(self) -> paho.Client:
        is_5 = self._mqtt == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if is_5 else not self._is_lasting,
            protocol=MQTTProtocolVersion.MQTTv5 if is_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_queued_messages_set(0)  # no bound of its own, ours is in bytes
        # Without this callback paho 2 lets the thread that publishes write to the socket, beside the thread that loops
        # and without a lock: a packet that the socket takes in parts is then torn by the next one.
        client.on_socket_register_write = _leave_writing_to_the_loop
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_subscribe = self._on_message, self._on_subscribe
        return client

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:  # noqa: ANN401 - paho's signature
        if self._closing.is_set():  # close() came while the socket was being opened
            client.disconnect()
        elif reason.is_failure:
            self._why = str(reason)  # paho ends the loop
        else:
            self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
            if self._dropped:
                client.unsubscribe(self._dropped)
            if self._filters:
                client.subscribe([(one, 1) for one in self._filters])
            else:
                self._up()

    def _on_subscribe(self, client: paho.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:  # noqa: ANN401 - paho's signature
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._why = f"the broker refused a subscription: {refused[0]}"
            client.disconnect()
            return
        self._up()

    def _up(self) -> None:
        self._was_up = self._connected = True
        self._put(LinkUp(mqtt=self._mqtt, max_packet_bytes=self._max_packet_bytes))
        early, self._early = self._early, []
        for message in early:
            self._put(message)

    def _on_disconnect(self, _client: paho.Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:  # noqa: ANN401 - paho's signature
        self._connected = False
        if flags.is_disconnect_packet_from_server:
            self._why = self._why or str(reason)

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:  # noqa: ANN401 - paho's signature
        asked = getattr(message, "properties", None)  # of MQTT 5
        received = Received(
            topic=message.topic,
            payload=bytes(message.payload),
            token=(client, message.mid),
            response_topic=getattr(asked, "ResponseTopic", None),
            correlation=getattr(asked, "CorrelationData", None),
        )
        # A broker redelivers as soon as it accepts a session, before it answers our subscription; the owner could not
        # publish its reply yet. It waits here, unless a broker sends more than our queue holds.
        if self._connected or len(self._early) == MAX_QUEUED_EVENTS:
            self._put(received)
        else:
            self._early.append(received)

    def _put(self, event: LinkEvent) -> None:
        # Blocks paho's loop while the owner is busy: the socket fills and the broker waits.
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                return self._events.put(event, timeout=_PUT_POLL_S)
        return None


def _leave_writing_to_the_loop(_client: paho.Client, _data: Any, _socket: Any) -> None:  # noqa: ANN401 - paho's signature
    """Do nothing: ``client.loop`` looks by itself, and is woken through its socket pair."""
