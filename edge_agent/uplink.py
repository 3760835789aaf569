"""What leaves the device: each message signed, published under its kind, counted and logged.

Law: whatever is published counts for the owner's rules (``Conduct.sent``). Says a thing once; ``sending`` says again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from host.logs import event as log
from protocol import topics
from protocol.messages import kind_of
from protocol.signing import sign

if TYPE_CHECKING:
    from edge_agent.conduct import Conduct
    from edge_agent.config import DeviceSettings
    from host.link import Link
    from protocol.messages import Body
    from protocol.signing import SigningKey

__all__ = ["Uplink"]


class Uplink:
    """One device's way to the service."""

    def __init__(self, device: DeviceSettings, *, key: SigningKey, link: Link, conduct: Conduct | None) -> None:
        """Speak for ``device`` with its ``key``."""
        self._fleet, self._device, self._key = device.fleet, device.id, key
        self._link, self._conduct = link, conduct
        self.n_bytes = 0  # topics and payloads that went out since the start

    def say(self, body: Body) -> bool:
        """Sign ``body`` and hand it to the link; return whether it went out."""
        return self.publish(kind_of(body), sign(body, fleet=self._fleet, sender=self._device, key=self._key))

    def publish(self, kind: str, envelope: bytes) -> bool:
        """Hand a signed envelope to the link; return whether it went out."""
        topic = topics.up(self._fleet, self._device, kind)
        if not self._link.publish(topic, envelope):
            return False
        self.n_bytes += len(topic) + len(envelope)
        if self._conduct is not None:
            self._conduct.sent(len(topic) + len(envelope))
        log(f"{kind}-sent", bytes=len(envelope))
        return True
