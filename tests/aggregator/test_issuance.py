"""The claim desk over a fake wire: tokens, approval, repetition, revocation, renewal; database and X.509 are real."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from aggregator.revocations import Revocations
from host.certificates import check_chain, load_key, make_key, make_request
from protocol.enrolment import seal_claim
from protocol.errors import RemoteProtocolError
from protocol.messages import Renew
from tests.aggregator.office import FLEET, HOUR_S, LIFE_S, SECRET, Applicant, Office

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_token_gives_a_certificate_for_the_devices_own_keys(office: Office, pi: Applicant) -> None:
    answer = office.ask(pi)
    assert (answer.status, answer.broker_url) == ("enrolled", "mqtts://127.0.0.1:1")
    assert answer.chain is not None
    certificate, _ = check_chain(answer.chain, root=office.authority.root, name="pi", key=pi.tls_key.public_key())
    begins = office.clock.unix_s() - certificate.not_valid_before_utc.timestamp()
    assert begins == pytest.approx(HOUR_S, abs=1)  # backdated, for devices whose clocks are behind
    assert certificate.not_valid_after_utc.timestamp() == pytest.approx(office.clock.unix_s() + LIFE_S, abs=1)
    key = office.registry.key_of("pi")
    assert key is not None
    assert key.raw == pi.key.public.raw


def test_the_same_claim_again_gives_the_same_certificate_and_no_second(office: Office, pi: Applicant) -> None:
    first = office.ask(pi)
    office.clock.now += 2 * HOUR_S  # the token's time is over: it was used before that
    again = office.ask(pi)
    assert again.chain == first.chain
    assert len(office.devices.certificates("pi")) == 1


def test_a_replayed_claim_tells_the_replayer_nothing(office: Office, pi: Applicant) -> None:
    claim = pi.claim(office.clock.unix_s())
    public = office.authority.claim_key.public_raw
    sealed = seal_claim(claim, fleet=FLEET, claim_id="c1", claim_key=public, key=pi.key)
    assert office.send(sealed) is not None
    assert office.send(sealed, claim_id="mine") is None  # bound to the topic that it was made for
    assert office.refusals() == {"claim-malformed": 1}
    assert len(office.devices.certificates("pi")) == 1


@pytest.mark.parametrize(
    ("reason", "prepare"),
    [
        ("unknown-token", lambda _office: {"secret": bytes(16)}),
        ("expired-token", lambda office: setattr(office.clock, "now", office.clock.now + HOUR_S + 1) or {}),
        ("clock-skew", lambda office: {"unix_s": office.clock.unix_s() - HOUR_S - 60}),
        ("clock-skew", lambda office: {"unix_s": office.clock.unix_s() + HOUR_S + 60}),
        ("bad-request", lambda office: {"request": make_request("other", make_key(office.folder / "x.key"))}),
        ("bad-request", lambda _office: {"request": b"no request"}),
    ],
)
def test_a_claim_is_refused_with_its_counted_reason(
    office: Office, pi: Applicant, reason: str, prepare: Callable[[Office], dict[str, Any]]
) -> None:
    answer = office.ask(pi, **prepare(office))
    assert (answer.status, answer.reason, answer.chain) == ("refused", reason, None)
    assert office.refusals() == {reason: 1}
    assert office.devices.devices() == []


def test_a_token_works_for_one_device_with_one_pair_of_keys(office: Office, pi: Applicant, tmp_path: Path) -> None:
    office.ask(pi)
    assert office.ask(Applicant(tmp_path, "other")).reason == "used-token"
    pi.tls_key = make_key(tmp_path / "another.key")
    assert office.ask(pi).reason == "used-token"


def test_a_name_belongs_to_the_key_that_had_it_first(office: Office, pi: Applicant, tmp_path: Path) -> None:
    office.ask(pi)
    office.give_token(bytes(16))
    assert office.ask(Applicant(tmp_path, "pi"), secret=bytes(16)).reason == "name-taken"
    assert office.ask(pi, secret=bytes(16)).status == "enrolled"  # the same device, whose certificate was lost


def test_garbage_is_counted_and_never_answered(office: Office) -> None:
    assert office.send(b"garbage") is None
    assert office.refusals() == {"claim-malformed": 1}


def test_a_device_cannot_take_the_services_name(office: Office, tmp_path: Path) -> None:
    service = Applicant(tmp_path, "service")
    public = office.authority.claim_key.public_raw
    claim = service.claim(office.clock.unix_s())
    assert office.send(seal_claim(claim, fleet=FLEET, claim_id="c1", claim_key=public, key=service.key)) is None


def test_by_hand_a_device_waits_until_it_is_approved(make_office: Callable[..., Office], pi: Applicant) -> None:
    office = make_office(approval="manual")
    assert office.ask(pi).status == "pending"
    assert office.ask(pi).status == "pending"
    assert office.registry.key_of("pi") is None
    office.devices.approve("pi", 0.0)
    office.clock.now += 2 * HOUR_S  # the operator was slow
    assert office.ask(pi).status == "enrolled"
    assert office.registry.key_of("pi") is not None


def test_a_revoked_device_is_unknown_at_once_and_does_not_come_back(office: Office, pi: Applicant) -> None:
    office.ask(pi)
    office.devices.revoke("pi", 0.0)
    with pytest.raises(RemoteProtocolError) as refused:
        office.registry.key_of("pi")
    assert refused.value.reason == "revoked"
    office.give_token(bytes(16))
    for secret in (SECRET, bytes(16)):
        assert office.ask(pi, secret=secret).reason == "device-revoked"
    office.devices.approve("pi", 0.0)
    assert office.ask(pi).reason == "device-revoked"
    with pytest.raises(RemoteProtocolError, match="did not enrol"):
        office.issuance.renew("pi", Renew(request=make_request("pi", pi.tls_key)))


def test_a_revocation_is_listed_and_the_connection_cut_twice(office: Office, pi: Applicant) -> None:
    office.ask(pi)
    cut: list[str] = []
    parts: Any = {"devices": office.devices, "issuer": office.authority, "clock": office.clock, "evict": cut.append}
    Revocations(**parts).tick(1.0)
    office.devices.revoke("pi", 0.0)
    Revocations(**parts).tick(1.0)  # killed after this: the next begins again
    revocations = Revocations(**parts)
    for tenth in range(10, 50):
        revocations.tick(tenth / 10)
    assert cut == ["pi"] * 3
    assert office.devices.to_shut_out() == []
    crl = x509.load_pem_x509_crl(office.authority.file("crl.pem").read_bytes())
    serial = int(office.devices.certificates("pi")[0].serial, 16)
    assert crl.get_revoked_certificate_by_serial_number(serial) is not None


def test_every_revocation_list_is_newer_than_the_one_before(office: Office) -> None:
    times = []
    for _ in range(3):  # within one second
        office.authority.write_crl([1], unix_s=office.clock.unix_s())
        times.append(x509.load_pem_x509_crl(office.authority.file("crl.pem").read_bytes()).last_update_utc)
    assert times == sorted(set(times))


def test_a_young_certificate_is_given_again_and_an_old_one_renewed(office: Office, pi: Applicant) -> None:
    first = office.ask(pi)
    renew = Renew(request=make_request("pi", pi.tls_key))
    assert office.issuance.renew("pi", renew).chain == first.chain
    office.clock.now += LIFE_S * 0.6
    renewed = office.issuance.renew("pi", renew)
    assert renewed.chain != first.chain
    check_chain(renewed.chain, root=office.authority.root, name="pi", key=pi.tls_key.public_key())
    assert office.issuance.renew("pi", renew).chain == renewed.chain
    assert len(office.devices.certificates("pi")) == 2


def test_a_renewal_for_another_name_or_key_is_refused(office: Office, pi: Applicant, tmp_path: Path) -> None:
    office.ask(pi)
    for request in (make_request("other", pi.tls_key), make_request("pi", make_key(tmp_path / "x.key")), b"x"):
        with pytest.raises(RemoteProtocolError) as refused:
            office.issuance.renew("pi", Renew(request=request))
        assert refused.value.reason == "bad-renewal"


def test_the_service_works_without_the_roots_key(office: Office, pi: Applicant) -> None:
    office.authority.file("root.key").unlink()
    office.authority.renew_own("other.example", now=datetime.fromtimestamp(office.clock.unix_s(), UTC))
    assert office.ask(pi).status == "enrolled"
    assert load_key(office.authority.file("server.key"))
