"""Puts together what a fleet with an authority has beside the rounds: issuance, the claim desk, revocations."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Final

from aggregator.adapters.authority import BACKDATE
from aggregator.adapters.clock import SystemClock
from aggregator.app import Trust
from aggregator.bundle_shelf import bundle_url
from aggregator.issuance import ClaimDesk, Issuance, Terms
from aggregator.revocations import Revocations
from aggregator.trust_upkeep import TrustUpkeep
from host.certificates import der_of
from host.durable import remove
from host.link import LinkUp
from host.mqtt_link import MqttLink
from host.tls import client_context
from protocol import topics
from protocol.enrolment import Welcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.adapters.authority import Authority
    from aggregator.brokers import Brokers
    from aggregator.config import Config
    from aggregator.setup import Workshop
    from host.link import BrokerAddress
    from protocol.signing import SigningKey

__all__ = ["broker_url", "make_trust", "make_welcome"]

_DAY_S: Final = 86_400
_EVICT_WAIT_S: Final = 8.0


def make_trust(workshop: Workshop, brokers: Brokers) -> Trust | None:
    """Return the parts, or None where the fleet has no authority."""
    config, authority = workshop.config, brokers.authority
    if authority is None or brokers.claims is None:
        return None
    clock, fleet = SystemClock(), config.service.fleet
    terms = Terms(
        fleet=fleet,
        broker_url=broker_url(config),
        bundle_url=bundle_url(config),
        approval=config.devices.approve,
        life_s=config.devices.certificate_days * _DAY_S,
        max_skew_s=BACKDATE.total_seconds(),
    )
    issuance = Issuance(terms, devices=workshop.enrolled, issuer=authority, clock=clock, key_of=workshop.devices.key_of)
    link = MqttLink(
        brokers.claims, client_id=_claims_id(workshop.key), filters=[topics.all_claims(fleet)], tls=brokers.tls
    )
    desk = ClaimDesk(
        issuance,
        link=link,
        store=workshop.world.store,
        welcome=make_welcome(fleet, authority, workshop.key),
        claim_key=authority.claim_key,
        key=workshop.key,
    )
    evict = _evictor(authority, brokers.fleet, clock)
    revocations = Revocations(devices=workshop.enrolled, issuer=authority, clock=clock, evict=evict)
    host = "" if config.authority is None else config.authority.host
    upkeep = TrustUpkeep(authority, workshop.pruning, host=host, clock=clock, write_list=revocations.write_list)
    return Trust(issuance=issuance, desk=desk, revocations=revocations, upkeep=upkeep)


def make_welcome(fleet: str, authority: Authority, key: SigningKey) -> Welcome:
    """Return who the service is, for the claim broker and, as a hash, for tokens."""
    (root,) = der_of([authority.root])
    public = key.public
    return Welcome(
        fleet=fleet,
        root=root,
        service_key=public.raw,
        second_key=public.second,
        claim_key=authority.claim_key.public_raw,
    )


def broker_url(config: Config) -> str:
    """Return where enrolled devices connect."""
    if config.broker.url is not None or config.authority is None:
        return config.broker.url or f"mqtt://{config.broker.host}:{config.broker.port}"
    return f"mqtts://{config.authority.host}:{config.broker.port}"


def _claims_id(key: SigningKey) -> str:
    # Strangers share the claim broker with us and may choose any client id: one that they knew would cut us off.
    return hashlib.sha256(b"edgefold claims" + key.raw).hexdigest()[:32]


def _evictor(authority: Authority, address: BrokerAddress, clock: SystemClock) -> Callable[[str], None]:
    """Return what ends a device's connection: MQTT 5, section 3.1.4, lets the same client id take it over."""

    def take_over(device: str) -> None:
        files = authority.make_eviction(device, unix_s=clock.unix_s())
        context = client_context(files)
        for path in (files.certificate, files.key):
            if path is not None:
                remove(path)
        link = MqttLink(address, client_id=device, filters=[], tls=lambda: context, is_lasting=False)
        event = link.receive(_EVICT_WAIT_S)
        while event is not None and not isinstance(event, LinkUp):
            event = link.receive(_EVICT_WAIT_S)
        link.close()

    def begin(device: str) -> None:
        threading.Thread(target=take_over, args=(device,), name="evict", daemon=True).start()

    return begin
