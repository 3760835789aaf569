"""How second keys become known and are kept: by a claim, once, on both sides, after restarts too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.identity import Enrolment, FolderKeyStore, IdentityFolder
from edge_agent.config import DeviceSettings
from edge_agent.parties import believed_service, own_key
from host.certificates import der_of
from host.keys import second_key_file
from protocol.enrolment import open_answer, seal_claim
from protocol.errors import BadSignatureError, ConfigError
from protocol.second_signature import SecondSigningKey
from protocol.signing import SigningKey
from tests.aggregator import office as offices
from tests.attacks.test_second_signature import FORGERS, twice

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.aggregator.office import Applicant, Office


def second_of(office: Office) -> bytes | None:
    key = office.registry.key_of("pi")
    assert key is not None
    return key.second


@FORGERS
def test_a_device_that_enrolled_with_a_second_key_cannot_be_made_one_without(
    office: Office, pi: Applicant, forger: Callable[[SigningKey], SigningKey]
) -> None:
    pi.key = twice(pi.key)
    assert office.ask(pi, second_key=pi.key.public.second).status == "enrolled"
    office.give_token(bytes(16))
    forged = forger(pi.key)
    genuine, pi.key = pi.key, forged
    for secret in (offices.SECRET, bytes(16)):
        assert office.ask(pi, secret=secret, second_key=forged.public.second).reason == "name-taken"
    key = office.registry.key_of("pi")
    assert key is not None
    assert (key.raw, key.second) == (genuine.public.raw, genuine.public.second)


def test_a_claim_must_be_signed_by_the_second_key_that_it_brings(office: Office, pi: Applicant) -> None:
    claim = pi.claim(office.clock.unix_s(), second_key=SecondSigningKey.generate().public.raw)
    public = office.authority.claim_key.public_raw
    for key in (pi.key, twice(pi.key)):
        assert office.send(seal_claim(claim, fleet="f", claim_id="c1", claim_key=public, key=key)) is None
    assert office.refusals() == {"claim-malformed": 2}


def test_a_device_that_enrolled_before_gets_a_second_key_by_a_claim(office: Office, pi: Applicant) -> None:
    first = office.ask(pi)
    assert second_of(office) is None
    pi.key = twice(pi.key)
    again = office.ask(pi, second_key=pi.key.public.second)  # by the token that it used, or by a new one
    assert again.chain == first.chain
    assert second_of(office) == pi.key.public.second
    assert len(office.devices.certificates("pi")) == 1


def test_an_answer_without_the_second_signature_that_the_welcome_promises_is_refused(
    office: Office, pi: Applicant
) -> None:
    claim, public = pi.claim(office.clock.unix_s()), office.authority.claim_key.public_raw
    sealed = seal_claim(claim, fleet="f", claim_id="c1", claim_key=public, key=pi.key)
    answer = office.send(sealed)
    assert answer is not None
    with pytest.raises(BadSignatureError, match="second"):
        open_answer(
            answer,
            fleet="f",
            claim_id="c1",
            claim=sealed,
            answer_key=pi.answer_key,
            service_key=twice(office.key).public,
        )


@pytest.fixture
def enrolled(tmp_path: Path, office: Office) -> tuple[Path, DeviceSettings]:
    """A device's folder after it enrolled with a service that signs twice."""
    keys = FolderKeyStore(signing_key=tmp_path / "device.key", folder=tmp_path / "identity")
    key, service = keys.signing_key(with_second=True), twice(SigningKey.generate()).public
    made = office.authority.issue(
        "pi", keys.certificate_request("pi"), verify_key=key.public.raw, life_s=1e5, unix_s=office.clock.unix_s()
    )
    assert service.second is not None
    enrolment = Enrolment(
        fleet="f",
        device="pi",
        broker_url="mqtts://b",
        service_key=service.raw.hex(),
        service_second_key=service.second.hex(),
    )
    (root,) = der_of([office.authority.root])
    IdentityFolder(tmp_path / "identity", keys).keep(enrolment, root=root, chain=office.authority.chain(made.der))
    return tmp_path, DeviceSettings(fleet="f", id="pi", key="device.key", bundles=("b",))


def test_both_second_keys_are_there_after_a_restart_and_private(enrolled: tuple[Path, DeviceSettings]) -> None:
    here, settings = enrolled
    kept = IdentityFolder(
        here / "identity", FolderKeyStore(signing_key=here / "device.key", folder=here / "identity")
    ).enrolment
    assert kept is not None
    assert believed_service(settings, here=here, enrolment=kept).second is not None
    assert own_key(settings, here=here, enrolment=kept).public.second is not None
    assert second_key_file(here / "device.key").stat().st_mode & 0o777 == 0o600
    second_key_file(here / "device.key").unlink()
    with pytest.raises(ConfigError, match="takes nothing that it did not sign"):
        own_key(settings, here=here, enrolment=kept)
