"""Makes the service's messages: signed, addressed, and of known length before they are sent. Does not send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol import topics
from protocol.messages import Announce, Certificate, Decline, Receipt, Work, kind_of
from protocol.signing import SERVICE, sign

if TYPE_CHECKING:
    from aggregator.core.staging import Staged
    from protocol.messages import Join, Latest, Update
    from protocol.reasons import Reason
    from protocol.signing import SigningKey
    from protocol.sum_round import SumNext, SumStep
    from protocol.uploads import Upload, Uploaded

__all__ = ["Conversation", "Outgoing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message ready to publish."""

    topic: str
    payload: bytes
    retain: bool = False

    @property
    def n_bytes(self) -> int:
        """What it counts as traffic: payload and topic."""
        return len(self.payload) + len(self.topic)


class Conversation:
    """The service's side of one fleet's conversation."""

    __slots__ = ("_key", "fleet")

    def __init__(self, *, fleet: str, key: SigningKey) -> None:
        """Speak for ``fleet`` with the service's key."""
        self.fleet, self._key = fleet, key

    @property
    def public_key(self) -> str:
        """The service's public key as hex: what an agent's ``device.service_key`` must say."""
        return self._key.public.raw.hex()

    def announce(self, announce: Announce) -> Outgoing:
        """Return the retained announcement."""
        payload = sign(announce, fleet=self.fleet, sender=SERVICE, key=self._key)
        return Outgoing(topic=topics.announce(self.fleet, announce.task), payload=payload, retain=True)

    def work(self, device: str, work: Work) -> Outgoing:
        """Return what a device needs for the round."""
        return self._down(device, work)

    def decline(self, device: str, join: Join, reason: Reason) -> Outgoing:
        """Return why a device does not take part."""
        return self._down(device, Decline(task=join.task, round=join.round, reason=reason))

    def accepted(self, device: str, update: Update | Staged | SumStep | Upload) -> Outgoing:
        """Return the receipt of an update, or of a step of a sum, that is durable."""
        return self._receipt(device, update, None)

    def refused(self, device: str, update: Update | Staged | SumStep | Upload, reason: Reason) -> Outgoing:
        """Return the receipt of an update that is not taken."""
        return self._receipt(device, update, reason)

    def following(self, device: str, following: SumNext) -> Outgoing:
        """Return what a device needs for its next step of a sum."""
        return self._down(device, following)

    def certificate(self, device: str, certificate: Certificate) -> Outgoing:
        """Return a device's renewed certificate."""
        return self._down(device, certificate)

    def uploaded(self, device: str, uploaded: Uploaded) -> Outgoing:
        """Return how much of an upload is there."""
        return self._down(device, uploaded)

    def latest(self, device: str, latest: Latest) -> Outgoing:
        """Return the newest version, for a device that predicts."""
        return self._down(device, latest)

    def _receipt(self, device: str, update: Update | Staged | SumStep | Upload, reason: Reason | None) -> Outgoing:
        receipt = Receipt(
            task=update.task,
            round=update.round,
            update_id=update.update_id,
            status="accepted" if reason is None else "refused",
            reason=reason,
        )
        return self._down(device, receipt)

    def _down(
        self, device: str, body: Work | Decline | Receipt | Certificate | SumNext | Uploaded | Latest
    ) -> Outgoing:
        payload = sign(body, fleet=self.fleet, sender=SERVICE, key=self._key)
        return Outgoing(topic=topics.down(self.fleet, device, kind_of(body)), payload=payload)
