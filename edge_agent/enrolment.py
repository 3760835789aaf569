"""``edgefold agent enrol``: from a token to a certificate, over the fleet's claim broker.

Workflow: fetch the welcome and compare its hash with the token's -> connect again, now believing the welcome's root ->
claim, sealed to the welcome's key -> open the answer -> check the certificate -> keep it. Nothing that is said before
the hash was compared is believed, and nothing secret is sent before the broker's certificate held.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from edge_agent.adapters.identity import Enrolment
from host.certificates import save_pem
from host.link import LinkDown, LinkUp, Received, parse_broker_url
from host.mqtt_link import MqttLink
from host.tls import TlsFiles, client_context, pinned_later
from protocol import topics
from protocol.enrolment import Claim, ClaimAnswer, Welcome, fingerprint, open_answer, seal_claim, unpack_welcome
from protocol.errors import ConfigError, RemoteProtocolError, TransportError, TrustError
from protocol.sealing import TaskKey
from protocol.signing import VerifyKey

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping

    from edge_agent.adapters.identity import IdentityFolder
    from edge_agent.ports import KeyStore
    from host.link import Link
    from protocol.enrolment import ClaimReason, Token

__all__ = ["enrol"]

_ASK_EVERY_S: Final = 3.0  # a claim again; the service answers the same claim the same way
_CLOCK_WORDS: Final = ("not yet valid", "has expired")  # OpenSSL's, of a certificate that this machine's clock denies

_REMEDIES: Final[Mapping[ClaimReason, str]] = {
    "claim-malformed": "the service takes no such claim; is it of another version of edgefold?",
    "bad-request": "the service takes no such certificate request",
    "clock-skew": "this machine's clock is wrong",
    "unknown-token": "the service knows no such token",
    "expired-token": "the token has expired; ask for a new one",
    "used-token": "the token was used by another device or with other keys; ask for a new one",
    "name-taken": "another device has this name; change device.id",
    "device-revoked": "this device was revoked; that is for good",
}


def enrol(device: str, token: Token, *, keys: KeyStore, identity: IdentityFolder, deadline_s: float) -> ClaimAnswer:
    """Enrol and keep what came of it; return the service's answer, which may be ``pending``.

    Raises:
        TransportError: the claim broker did not answer in time (the environment's fault).
        TrustError: refused, or somebody else answered.
        ConfigError: this machine's clock is wrong (the user's fault).
    """
    until_s = time.monotonic() + deadline_s
    welcome = _fetch_welcome(token, until_s)
    claim_key = TaskKey.generate()
    claim_id = os.urandom(16).hex()
    signing_key = keys.signing_key(with_second=welcome.second_key is not None)
    claim = Claim(
        device=device,
        secret=token.secret,
        verify_key=signing_key.public.raw,
        second_key=signing_key.public.second,
        answer_key=claim_key.public_raw,
        request=keys.certificate_request(device),
        unix_s=time.time(),
    )
    sealed = seal_claim(claim, fleet=token.fleet, claim_id=claim_id, claim_key=welcome.claim_key, key=signing_key)
    with _believing(welcome) as tls, _linked(token, claim_id, topics.claim_down(token.fleet, claim_id), tls) as link:
        data = _ask(link, topics.claim_up(token.fleet, claim_id), sealed, until_s)
    try:
        answer = open_answer(
            data,
            fleet=token.fleet,
            claim_id=claim_id,
            claim=sealed,
            answer_key=claim_key,
            service_key=VerifyKey(welcome.service_key, second=welcome.second_key),
        )
    except RemoteProtocolError as error:
        raise TrustError(f"the answer is not from the service that the token names: {error}") from error
    _keep(device, token, welcome, answer, identity)
    return answer


def _keep(device: str, token: Token, welcome: Welcome, answer: ClaimAnswer, identity: IdentityFolder) -> None:
    if answer.status == "refused":
        remedy = _REMEDIES.get(answer.reason) if answer.reason is not None else None
        if answer.reason == "clock-skew":
            raise ConfigError(_clock_error(f"it is {_utc(answer.unix_s)} at the service"))
        raise TrustError(f"refused: {remedy or 'no reason given'}")
    if answer.chain is not None and answer.broker_url is not None:
        enrolment = Enrolment(
            fleet=token.fleet,
            device=device,
            broker_url=answer.broker_url,
            service_key=welcome.service_key.hex(),
            bundle_url=answer.bundle_url,
            service_second_key=None if welcome.second_key is None else welcome.second_key.hex(),
        )
        identity.keep(enrolment, root=welcome.root, chain=answer.chain)


def _fetch_welcome(token: Token, until_s: float) -> Welcome:
    with _linked(token, os.urandom(16).hex(), topics.welcome(token.fleet), pinned_later) as link:
        data = _next(link, until_s)
    if fingerprint(data) != token.welcome:
        raise TrustError("whoever answers there is not the service that the token names; nothing was sent")
    try:
        welcome = unpack_welcome(data)
    except RemoteProtocolError as error:
        raise TrustError("the service's welcome is of another version of edgefold") from error
    if welcome.fleet != token.fleet:
        raise TrustError(f"the token is for fleet {token.fleet}, the service's is {welcome.fleet}")
    return welcome


@contextmanager
def _believing(welcome: Welcome) -> Iterator[Callable[[], ssl.SSLContext]]:
    with tempfile.TemporaryDirectory(prefix="edgefold-") as folder:
        root = Path(folder) / "root.pem"
        save_pem(root, [x509.load_der_x509_certificate(welcome.root)])
        yield lambda: client_context(TlsFiles(root=root))


@contextmanager
def _linked(token: Token, client_id: str, topic: str, tls: Callable[[], ssl.SSLContext]) -> Iterator[Link]:
    address = parse_broker_url(token.url)
    link = MqttLink(address, client_id=client_id, filters=[topic], tls=tls, is_lasting=False)
    try:
        yield link
    finally:
        link.close()


def _ask(link: Link, topic: str, sealed: bytes, until_s: float) -> bytes:
    why = "no answer"
    while (left_s := until_s - time.monotonic()) > 0:
        match link.receive(min(left_s, _ASK_EVERY_S)):
            case Received(payload=payload):
                return payload
            case LinkDown(why=why):
                _raise_if_clock(why)
            case LinkUp() | None:
                link.publish(topic, sealed)
    raise TransportError(f"the service did not answer the claim in time: {why}")


def _next(link: Link, until_s: float) -> bytes:
    why = "no answer"
    while (left_s := until_s - time.monotonic()) > 0:
        match link.receive(left_s):
            case Received(payload=payload):
                return payload
            case LinkDown(why=why):
                pass
    raise TransportError(f"the claim broker did not answer in time: {why}")


def _raise_if_clock(why: str) -> None:
    if any(words in why for words in _CLOCK_WORDS):
        raise ConfigError(_clock_error("the broker's certificate does not hold then"))


def _clock_error(fact: str) -> str:
    return f"this machine's clock says {_utc(time.time())}, but {fact}; set the clock (timedatectl) and enrol again"


def _utc(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))
