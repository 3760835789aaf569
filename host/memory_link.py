"""A broker in memory and links to it: for tests that drive both ends in one process.

It keeps the real port's promises (at least once until acknowledged, retained messages, nothing while down) and can break
on command: ``MemoryBroker.drop`` cuts every link, ``Redeliver`` what was not acknowledged comes again on reconnect.
"""

from __future__ import annotations

import itertools
import queue
from collections import OrderedDict
from typing import TYPE_CHECKING

from host.link import LinkDown, LinkEvent, LinkUp, Received

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MemoryBroker", "MemoryLink"]


class MemoryBroker:
    """Routes messages between the links of one process; remembers retained ones and all traffic."""

    def __init__(self) -> None:
        """Begin up, without links."""
        self.is_up = True
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
        if retain:
            self._retained[topic] = payload
        for link in self._links:
            link.offer(topic, payload)

    def drop(self) -> None:
        """Cut all links, as a broker's crash does; its retained messages are gone."""
        self.is_up = False
        self._retained.clear()
        for link in self._links:
            link.disconnected()

    def restore(self) -> None:
        """Come back; links reconnect and get what they had not acknowledged."""
        self.is_up = True
        for link in self._links:
            link.connected()

    def retained(self) -> dict[str, bytes]:
        """Return the retained messages by topic."""
        return dict(self._retained)

    def forget(self, link: MemoryLink) -> None:
        """Remove a closed link."""
        self._links.remove(link)


class MemoryLink:
    """One party's end; implements ``host.link.Link``."""

    def __init__(self, broker: MemoryBroker, filters: Sequence[str]) -> None:
        """Belong to ``broker``; ``MemoryBroker.link`` makes links."""
        self._broker, self._filters = broker, list(filters)
        self._events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        self._unacknowledged: OrderedDict[int, Received] = OrderedDict()
        self._tokens = itertools.count()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Deliver at once to whoever subscribed."""
        if not self._broker.is_up:
            return False
        self._broker.route(topic, payload, retain=retain)
        return True

    def receive(self, timeout_s: float) -> LinkEvent | None:
        """Return the next event, or None after ``timeout_s``."""
        try:
            return self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None

    def acknowledge(self, message: Received) -> None:
        """Forget ``message``."""
        if isinstance(message.token, int):
            self._unacknowledged.pop(message.token, None)

    def close(self) -> None:
        """Leave the broker."""
        self._broker.forget(self)

    def offer(self, topic: str, payload: bytes) -> None:
        """Take a message if a filter matches."""
        if any(matches(one, topic) for one in self._filters):
            message = Received(topic=topic, payload=payload, token=next(self._tokens))
            self._unacknowledged[message.token] = message  # type: ignore[index]  # tokens of this link are ints
            self._events.put(message)

    def connected(self) -> None:
        """Tell the owner; then come retained messages and those not acknowledged."""
        self._events.put(LinkUp(mqtt="5"))
        for message in self._unacknowledged.values():
            self._events.put(message)
        for topic, payload in self._broker.retained().items():
            self.offer(topic, payload)

    def disconnected(self) -> None:
        """Tell the owner."""
        self._events.put(LinkDown(why="the broker went away"))


def matches(topic_filter: str, topic: str) -> bool:
    """Return whether ``topic`` matches ``topic_filter`` (MQTT 5, section 4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(levels) or level not in ("+", levels[i]):
            return False
    return len(wanted) == len(levels)
