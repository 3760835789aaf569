"""The port to a broker: publish, receive, acknowledge. ``mqtt_link`` is the real one, ``memory_link`` its twin.

Laws: messages arrive at least once and are redelivered until acknowledged, so the owner acknowledges only what it has
made durable or refused; ``receive`` hands out one event at a time from a bounded queue, and a full queue makes the
broker wait; ``publish`` never queues for later: while the link is down it says so, and the owner sends again after
``LinkUp``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

from protocol.errors import ConfigError

__all__ = ["BrokerAddress", "Link", "LinkDown", "LinkEvent", "LinkUp", "Received", "parse_broker_url"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PORTS = {"mqtt": 1883, "mqtts": 8883}  # registered at IANA for MQTT without and with TLS


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A message from the broker; ``token`` is for ``acknowledge``."""

    topic: str
    payload: bytes
    token: object = None
    response_topic: str | None = None  # MQTT 5: where the sender wants an answer, and what is to be in it
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUp:
    """Connected and subscribed; what was published before may be lost."""

    mqtt: Literal["5", "3.1.1"]
    max_packet_bytes: int | None = None  # the broker's limit, where it says one (MQTT 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDown:
    """Not connected; the link tries again by itself."""

    why: str


LinkEvent: TypeAlias = Received | LinkUp | LinkDown


class Link(Protocol):
    """One party's connection to the broker."""

    @property
    def is_up(self) -> bool:
        """Whether the link is connected and subscribed now."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, correlation: bytes | None = None) -> bool:
        """Hand a message (QoS 1) to the live connection; False if there is none, it is busy, or this is too large.

        ``correlation`` goes along where the broker speaks MQTT 5, and is left out where it does not.
        """

    def receive(self, timeout_s: float) -> LinkEvent | None:
        """Return the next event, or None after ``timeout_s``."""

    def wake(self) -> None:
        """Make a waiting ``receive`` return None now; callable from any thread."""

    def acknowledge(self, message: Received) -> None:
        """Tell the broker that ``message`` need not come again."""

    def close(self) -> None:
        """Disconnect and end the link's thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where the broker listens."""

    host: str
    port: int
    is_tls: bool = False


def parse_broker_url(url: str) -> BrokerAddress:
    """Return the address in ``mqtts://host:port``, or in ``mqtt://host:port`` on this machine.

    Raises:
        ConfigError: another scheme, or plain MQTT beyond this machine (the user's fault).
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, _PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    except ValueError as error:
        raise ConfigError(f"broker.url: not a URL: {error}") from error
    if "@" in parts.netloc:
        raise ConfigError("broker.url: names and passwords do not belong into a URL")  # nor into an error
    has_more = parts.path not in ("", "/") or parts.query or parts.fragment
    if parts.scheme not in _PORTS or not host or port == 0 or has_more:
        raise ConfigError(f"broker.url {url!r}: expected mqtts://HOST:PORT, or mqtt://HOST:PORT on this machine")
    if parts.scheme == "mqtt" and host not in _LOOPBACK:
        raise ConfigError(f"broker.url {url!r}: plain MQTT is for loopback only; enrol, and use mqtts://")
    return BrokerAddress(host=host, port=port, is_tls=parts.scheme == "mqtts")
