"""A broker in memory and links to it: for tests that drive both ends in one process.

It keeps the real port's promises (at least once until acknowledged, retained messages, nothing while down) and can
break on command: ``MemoryBroker.drop`` cuts every link, and after ``restore`` what was not acknowledged comes again.
"""

from __future__ import annotations

import itertools
import queue
from collections import OrderedDict
from typing import TYPE_CHECKING

from host.link import LinkDown, LinkEvent, LinkUp, Received
from protocol.topics import matches

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MemoryBroker", "MemoryLink", "matches"]


class MemoryBroker:
    """Routes messages between the links of one process; remembers retained ones and all traffic."""

    def __init__(self, *, max_packet_bytes: int | None = None) -> None:
        """Begin up, without links; refuse payloads beyond ``max_packet_bytes`` if it is given."""
        self.is_up = True
        self.max_packet_bytes = max_packet_bytes
        self.traffic: list[tuple[str, bytes]] = []
        self._retained: dict[str, bytes] = {}
        self._links: list[MemoryLink] = []

    def link(self, filters: Sequence[str]) -> MemoryLink:
        """Return a connected link subscribed to ``filters``."""
        link = MemoryLink(self, filters)
        self._links.append(link)
        if self.is_up:
            link.connected()
        return link

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Deliver to every link with a matching filter."""
        self.traffic.append((topic, payload))
        if retain and payload:
            self._retained[topic] = payload
        elif retain:  # MQTT 5, section 3.3.1.3: a retained message without payload removes the one before
            self._retained.pop(topic, None)
        for link in list(self._links):
            link.offer(topic, payload)

    def drop(self) -> None:
        """Cut all links, as a broker's crash does; its retained messages are gone."""
        self.is_up = False
        self._retained.clear()
        for link in list(self._links):
            link.disconnected()

    def restore(self) -> None:
        """Come back; links reconnect and get what they had not acknowledged."""
        self.is_up = True
        for link in list(self._links):
            link.connected()

    def retained(self) -> dict[str, bytes]:
        """Return the retained messages by topic."""
        return dict(self._retained)

    def forget(self, link: MemoryLink) -> None:
        """Remove a closed link."""
        if link in self._links:
            self._links.remove(link)


class MemoryLink:
    """One party's end; implements ``host.link.Link``."""

    def __init__(self, broker: MemoryBroker, filters: Sequence[str]) -> None:
        """Belong to ``broker``; ``MemoryBroker.link`` makes links."""
        self._broker, self._filters = broker, list(filters)
        self._events: queue.SimpleQueue[LinkEvent | None] = queue.SimpleQueue()
        self._unacknowledged: OrderedDict[int, tuple[str, bytes]] = OrderedDict()
        self._numbers = itertools.count()
        self._n_connections = 0
        self._is_closed = False

    @property
    def is_up(self) -> bool:
        """Whether the broker is there."""
        return self._broker.is_up and not self._is_closed

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, correlation: bytes | None = None) -> bool:
        """Deliver at once to whoever subscribed; as over MQTT 3.1.1, without ``correlation``."""
        del correlation
        limit = self._broker.max_packet_bytes
        if self._is_closed or not self._broker.is_up or (limit is not None and len(payload) > limit):
            return False
        self._broker.route(topic, payload, retain=retain)
        return True

    def receive(self, timeout_s: float) -> LinkEvent | None:
        """Return the next event, or None after ``timeout_s``."""
        try:
            return self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None

    def wake(self) -> None:
        """Make a waiting ``receive`` return None."""
        self._events.put(None)

    def acknowledge(self, message: Received) -> None:
        """Forget ``message``, unless the connection on which it came is gone (then it comes again)."""
        match message.token:
            case (int(connection), int(number)) if connection == self._n_connections and self._broker.is_up:
                self._unacknowledged.pop(number, None)

    def close(self) -> None:
        """Leave the broker."""
        self._is_closed = True
        self._broker.forget(self)

    def offer(self, topic: str, payload: bytes) -> None:
        """Take a message if a filter matches."""
        if any(matches(one, topic) for one in self._filters):
            number = next(self._numbers)
            self._unacknowledged[number] = (topic, payload)
            self._deliver(number)

    def connected(self) -> None:
        """Tell the owner; then come retained messages and those not acknowledged."""
        self._n_connections += 1
        self._events.put(LinkUp(mqtt="5", max_packet_bytes=self._broker.max_packet_bytes))
        for number in list(self._unacknowledged):
            self._deliver(number)
        for topic, payload in self._broker.retained().items():
            self.offer(topic, payload)

    def disconnected(self) -> None:
        """Tell the owner."""
        self._events.put(LinkDown(why="the broker went away"))

    def _deliver(self, number: int) -> None:
        topic, payload = self._unacknowledged[number]
        self._events.put(Received(topic=topic, payload=payload, token=(self._n_connections, number)))
