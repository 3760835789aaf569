"""Gives certificates: to claims with a token, and again to devices before theirs end. Decides by ``core.enrolment``.

Laws: what was decided is durable before it is said; whoever opens no claim of ours is never answered; a device has as
many certificates as its renewals need and no more, whatever it asks for; strangers get a bounded share of each turn.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509

from aggregator.core.enrolment import (
    Approval,
    CertificateRecord,
    ClaimDecision,
    ClaimFacts,
    DeviceRecord,
    Enrol,
    Refuse,
    TokenRecord,
    decide_claim,
)
from host.certificates import open_request, public_bytes
from host.link import LinkDown, LinkUp, Received
from host.logs import event
from protocol import topics
from protocol.enrolment import Claim, ClaimAnswer, ClaimReason, fingerprint, open_claim, pack_welcome, seal_answer
from protocol.errors import ConfigError, MalformedMessageError, RemoteProtocolError
from protocol.messages import Certificate
from protocol.signing import SERVICE, VerifyKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.ports import Clock, Issuer
    from aggregator.store_ports import DeviceStore, Store
    from host.link import Link
    from protocol.enrolment import Welcome
    from protocol.messages import Renew
    from protocol.sealing import TaskKey
    from protocol.signing import SigningKey

__all__ = ["ClaimDesk", "Issuance", "Terms"]

# Opening a claim costs about a millisecond: a flood takes at most this share of each turn from the rounds.
_MAX_CLAIMS_PER_TURN: Final = 8
_RENEW_FRACTION: Final = 0.5  # a certificate that has more of its life left than this is given again, not renewed


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms devices are let in.

    Attributes:
        fleet: whose devices.
        broker_url: where enrolled devices go.
        bundle_url: where they fetch bundles, None where they cannot.
        approval: whether a token is enough.
        life_s: how long a certificate holds.
        max_skew_s: by how much a device's clock may differ; certificates are backdated by it.
    """

    fleet: str
    broker_url: str
    bundle_url: str | None = None
    approval: Approval
    life_s: float
    max_skew_s: float


class Issuance:
    """Decides, signs and stores; says nothing to anybody."""

    def __init__(
        self,
        terms: Terms,
        *,
        devices: DeviceStore,
        issuer: Issuer,
        clock: Clock,
        key_of: Callable[[str], VerifyKey | None],
    ) -> None:
        """Work on ``devices``; ``key_of`` also knows those that never enrolled."""
        self.terms = terms
        self._devices, self._issuer, self._clock, self._key_of = devices, issuer, clock, key_of

    def claim(self, claim: Claim) -> ClaimAnswer:
        """Return the answer to a claim whose signature holds, after all that follows from it is durable."""
        now_unix_s = self._clock.unix_s()
        try:
            tls_key = _digest_of_key(claim.request, claim.device)
        except RemoteProtocolError:
            return _refused("bad-request", now_unix_s)
        token = self._devices.token(fingerprint(claim.secret))
        decision = decide_claim(claim, self._facts(claim, token, tls_key, now_unix_s))
        if token is None or isinstance(decision, Refuse):
            reason = decision.reason if isinstance(decision, Refuse) else "unknown-token"
            return _refused(reason, now_unix_s)
        token = dataclasses.replace(token, device=claim.device, verify_key=claim.verify_key, tls_key=tls_key)
        return self._carry_out(decision, claim, token, now_unix_s)

    def renew(self, device: str, renew: Renew) -> Certificate:
        """Return a device's next certificate, or its present one while that is young.

        Raises:
            RemoteProtocolError: ``bad-renewal``.
        """
        now_unix_s, record = self._clock.unix_s(), self._devices.device(device)
        if record is None or record.status != "approved":
            raise RemoteProtocolError(f"{device} did not enrol here", reason="bad-renewal")
        held = next(iter(self._devices.certificates(device)), None)
        if held is not None and self._is_young(held, now_unix_s):
            if not _is_for(held, renew.request, device):
                raise RemoteProtocolError(f"{device} has a young certificate for another key", reason="bad-renewal")
            return Certificate(chain=self._issuer.chain(held.der))
        try:
            made = self._issuer.issue(
                device,
                renew.request,
                verify_key=record.verify_key,
                life_s=self.terms.life_s,
                unix_s=now_unix_s,
            )
        except (MalformedMessageError, ConfigError) as error:
            raise RemoteProtocolError(str(error), reason="bad-renewal") from error
        self._devices.add_certificate(made)
        return Certificate(chain=self._issuer.chain(made.der))

    def _is_young(self, held: CertificateRecord, now_unix_s: float) -> bool:
        is_young = held.ends_unix_s - now_unix_s > _RENEW_FRACTION * self.terms.life_s
        return is_young and self._issuer.is_by_present(held.der)

    def _facts(self, claim: Claim, token: TokenRecord | None, tls_key: bytes, now_unix_s: float) -> ClaimFacts:
        record = self._devices.device(claim.device)
        known = known_second = None
        if record is not None:
            known, known_second = record.verify_key, record.second_key
        elif (key := self._key_of(claim.device)) is not None:
            known, known_second = key.raw, key.second
        return ClaimFacts(
            token=token,
            known_key=known,
            known_second=known_second,
            status=None if record is None else record.status,
            tls_key=tls_key,
            now_unix_s=now_unix_s,
            max_skew_s=self.terms.max_skew_s,
            approval=self.terms.approval,
        )

    def _carry_out(self, decision: ClaimDecision, claim: Claim, token: TokenRecord, now_unix_s: float) -> ClaimAnswer:
        record = DeviceRecord(
            device=claim.device,
            verify_key=claim.verify_key,
            status="pending",
            since_unix_s=now_unix_s,
            second_key=claim.second_key,
        )
        made: CertificateRecord | None
        match decision:
            case Enrol(serial=str(serial)) if (made := self._devices.certificate(serial)) is not None:
                if claim.second_key is not None:  # the same claim again, but for a key that is new at most
                    self._devices.use_token(token, dataclasses.replace(record, status="approved"), None)
            case Enrol():
                made = self._issuer.issue(
                    claim.device,
                    claim.request,
                    verify_key=claim.verify_key,
                    life_s=self.terms.life_s,
                    unix_s=now_unix_s,
                )
                token = dataclasses.replace(token, serial=made.serial)
                self._devices.use_token(token, dataclasses.replace(record, status="approved"), made)
            case _:
                self._devices.use_token(token, record, None)
                return ClaimAnswer(claim=bytes(32), status="pending", unix_s=now_unix_s)
        return ClaimAnswer(
            claim=bytes(32),
            status="enrolled",
            unix_s=now_unix_s,
            broker_url=self.terms.broker_url,
            bundle_url=self.terms.bundle_url,
            chain=self._issuer.chain(made.der),
        )


class ClaimDesk:
    """Takes claims from the claim broker and answers them."""

    def __init__(
        self, issuance: Issuance, *, link: Link, store: Store, welcome: Welcome, claim_key: TaskKey, key: SigningKey
    ) -> None:
        """Answer as the service with ``key``; ``claim_key`` opens claims."""
        self._issuance, self._link, self._store = issuance, link, store
        self._welcome, self._claim_key, self._key = pack_welcome(welcome), claim_key, key

    def tick(self) -> None:
        """Answer the claims that have come, a few at a time."""
        for _ in range(_MAX_CLAIMS_PER_TURN):
            match self._link.receive(0):
                case None:
                    return
                case LinkUp():
                    self._link.publish(topics.welcome(self._issuance.terms.fleet), self._welcome, retain=True)
                    event("claims-open")
                case LinkDown(why=why):
                    event("claims-closed", level=logging.WARNING, why=why)
                case Received() as message:
                    self._receive(message)

    def close(self) -> None:
        """Leave the claim broker."""
        self._link.close()

    def _receive(self, message: Received) -> None:
        fleet, claim_id = self._issuance.terms.fleet, topics.claim_of(message.topic) or ""
        try:
            claim = open_claim(message.payload, fleet=fleet, claim_id=claim_id, key=self._claim_key)
            if claim.device == SERVICE:
                raise MalformedMessageError("a device claims the aggregator's own name")
            answer = dataclasses.replace(self._issuance.claim(claim), claim=fingerprint(message.payload))
            sealed = seal_answer(answer, fleet=fleet, claim_id=claim_id, answer_key=claim.answer_key, key=self._key)
        except RemoteProtocolError as error:
            self._refuse("claim-malformed", "", str(error))
        except ConfigError as error:  # the device asks again; what is wrong is here
            event("claim-unanswered", level=logging.ERROR, why=str(error))
        else:
            self._link.publish(topics.claim_down(fleet, claim_id), sealed)
            if answer.reason is not None:
                self._refuse(answer.reason, claim.device, "")
            else:
                event(f"device-{answer.status}", device=claim.device)
        self._link.acknowledge(message)

    def _refuse(self, reason: ClaimReason, device: str, detail: str) -> None:
        self._store.refuse(reason)
        event("claim-refused", reason=reason, device=device, detail=detail)


def _refused(reason: ClaimReason, now_unix_s: float) -> ClaimAnswer:
    return ClaimAnswer(claim=bytes(32), status="refused", reason=reason, unix_s=now_unix_s)


def _digest_of_key(request: bytes, device: str) -> bytes:
    return fingerprint(public_bytes(open_request(request, name=device)))


def _is_for(held: CertificateRecord, request: bytes, device: str) -> bool:
    try:
        mine = public_bytes(x509.load_der_x509_certificate(held.der).public_key())
        return mine == public_bytes(open_request(request, name=device))
    except RemoteProtocolError:
        return False
