"""Thousands of MQTT 3.1.1 connections on one thread: paho clients without their threads, and one selector.

Laws: QoS 1; clean sessions, since a device that was away hears the retained announcement and sends again what was not
answered; what the socket does not take is lost, as on a bad line; a lost connection comes back after a jittered,
bounded wait. Memory: measured in docs/scale.md.
"""

from __future__ import annotations

import random
import selectors
import time
from typing import TYPE_CHECKING, Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from host.link import BrokerAddress

__all__ = ["Connection", "Wire"]

_KEEPALIVE_S: Final = 60
_MISC_EVERY_S: Final = 5.0  # how often each client looks at its keepalive
_MAX_WAIT_S: Final = 4.0
_CONNECTS_A_POLL: Final = 50  # a listener's backlog is short (Mosquitto's: 100)


class Connection:
    """One client's connection, for one device or for many."""

    def __init__(self, wire: Wire, client_id: str, filters: Sequence[str]) -> None:
        """Prepare; ``Wire.poll`` connects."""
        self.is_up = False
        self.retry_s = 0.0
        self.sock: socket.socket | None = None
        self._wire, self._filters = wire, [(one, 1) for one in filters]
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self.client.on_socket_open, self.client.on_socket_close = self._opened, self._closed
        self.client.on_socket_register_write = self._wants_to_write
        self.client.on_socket_unregister_write = self._has_written
        self.client.on_connect, self.client.on_subscribe, self.client.on_message = (
            self._connected,
            self._up,
            self._heard,
        )

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send; False if there is no connection."""
        return self.is_up and self.client.publish(topic, payload, qos=1).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    # paho's callbacks, of paho's untyped signatures

    def _opened(self, _client: Any, _data: Any, sock: Any) -> None:  # noqa: ANN401
        self.sock = sock
        self._wire.selector.register(sock, selectors.EVENT_READ, self)

    def _closed(self, _client: Any, _data: Any, sock: Any) -> None:  # noqa: ANN401
        self._wire.selector.unregister(sock)
        self.sock, self.is_up = None, False
        self.retry_s = time.monotonic() + self._wire.random.uniform(0.1, _MAX_WAIT_S)

    def _wants_to_write(self, _client: Any, _data: Any, sock: Any) -> None:  # noqa: ANN401
        self._wire.selector.modify(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def _has_written(self, _client: Any, _data: Any, sock: Any) -> None:  # noqa: ANN401
        self._wire.selector.modify(sock, selectors.EVENT_READ, self)

    def _connected(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:  # noqa: ANN401
        if not reason.is_failure:
            client.subscribe(self._filters)

    def _up(self, *_: object) -> None:
        self.is_up = True

    def _heard(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:  # noqa: ANN401
        self._wire.hear(self, message.topic, bytes(message.payload))


class Wire:
    """All connections of one process."""

    def __init__(self, address: BrokerAddress, hear: Callable[[Connection, str, bytes], None]) -> None:
        """Prepare an empty wire; ``hear`` gets each message."""
        self.selector = selectors.DefaultSelector()
        self.random = random.Random()  # noqa: S311 - spreads reconnects
        self.hear = hear
        self.connections: list[Connection] = []
        self._address = address
        self._misc_s = 0.0

    @property
    def n_up(self) -> int:
        """How many connections are connected and subscribed."""
        return sum(one.is_up for one in self.connections)

    def add(self, client_id: str, filters: Sequence[str]) -> Connection:
        """Return a new connection, which connects by itself."""
        self.connections.append(Connection(self, client_id, filters))
        return self.connections[-1]

    def poll(self, timeout_s: float) -> None:
        """Connect what is not connected, then move bytes for at most about ``timeout_s``."""
        now_s = time.monotonic()
        if now_s >= self._misc_s:
            self._misc_s = now_s + _MISC_EVERY_S
            for one in self.connections:
                one.client.loop_misc()
        self._connect(now_s)
        for key, events in self.selector.select(timeout_s):
            connection: Connection = key.data
            if events & selectors.EVENT_WRITE:
                connection.client.loop_write()
            if events & selectors.EVENT_READ and connection.sock is not None:
                connection.client.loop_read()

    def close(self) -> None:
        """Leave the broker."""
        for one in self.connections:
            if one.sock is not None:
                one.client.disconnect()
                one.client.loop_write()
        self.selector.close()

    def _connect(self, now_s: float) -> None:
        missing = (one for one in self.connections if one.sock is None and one.retry_s <= now_s)
        for one, _ in zip(missing, range(_CONNECTS_A_POLL), strict=False):
            try:
                one.client.connect(self._address.host, self._address.port, keepalive=_KEEPALIVE_S)
            except OSError:
                one.retry_s = now_s + self.random.uniform(0.1, _MAX_WAIT_S)
