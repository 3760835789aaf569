"""The daily look: a changed issuing key is taken up, warnings come in time, enrolment's rows stay bounded."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.adapters.introductions import chain_source
from aggregator.adapters.issuing_keys import ISSUING_LIFE, renew_issuing
from aggregator.adapters.sql_pruning import SqlPruning
from aggregator.config import AuthoritySettings, Config, DevicesSettings, ServiceSettings
from aggregator.trust_upkeep import KEEP_S, WARN_S, TrustUpkeep, ends_soon
from host.certificates import check_chain, make_request
from host.device_certificates import check_peers
from host.keys import save_key
from protocol.messages import Renew
from tests.aggregator.office import HOUR_S, LIFE_S, SECRET, Applicant, Office

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY_S = 86_400.0


class Kept:
    """An office and what looks after it."""

    def __init__(self, office: Office) -> None:
        self.office, self.lists = office, 0
        self.pruning = SqlPruning(office.folder / "aggregator.db")
        self.upkeep = TrustUpkeep(
            office.authority, self.pruning, host="127.0.0.1", clock=office.clock, write_list=self.write_list
        )
        self.now_s = 0.0

    def write_list(self) -> None:
        self.lists += 1

    def days(self, n: float) -> None:
        self.office.clock.now += n * DAY_S
        self.now_s += n * DAY_S
        self.upkeep.tick(self.now_s)

    def change_key(self, *, until_unix_s: float | None = None) -> Any:
        folder = self.office.folder / "ca"
        now_unix_s = self.office.clock.unix_s()
        return renew_issuing(
            folder,
            "f",
            root_key_file=folder / "root.key",
            keep_until_unix_s=until_unix_s or now_unix_s + 8 * DAY_S,
            now=datetime.fromtimestamp(now_unix_s, UTC),
        )


@pytest.fixture
def kept(office: Office) -> Iterator[Kept]:
    made = Kept(office)
    made.upkeep.tick(0.0)
    yield made
    made.pruning.close()


def test_a_changed_issuing_key_is_taken_up_within_a_second_and_the_list_written_last(kept: Kept) -> None:
    before = kept.lists
    made = kept.change_key()
    kept.now_s += 1.0
    kept.upkeep.tick(kept.now_s)
    assert kept.lists == before + 1
    assert kept.office.authority.issuing_ends_unix_s == made.not_valid_after_utc.timestamp()
    kept.days(9)
    assert kept.lists == before + 2  # the former key was forgotten
    assert list((kept.office.folder / "ca").glob("former-*")) == []


def test_a_device_renews_to_the_new_key_while_its_certificate_is_young(kept: Kept, pi: Applicant) -> None:
    office = kept.office
    first = office.ask(pi)
    renew = Renew(request=make_request("pi", pi.tls_key))
    assert office.issuance.renew("pi", renew).chain == first.chain
    made = kept.change_key()
    kept.days(0.01)
    again = office.ask(pi)  # the answer was lost: it gets the certificate of before, which holds, with its own issuer
    assert again.chain == first.chain
    renewed = office.issuance.renew("pi", renew)
    own, issuer = check_chain(renewed.chain, root=office.authority.root, name="pi", key=pi.tls_key.public_key())
    assert (own.issuer, issuer.subject) == (made.subject, made.subject)
    assert office.issuance.renew("pi", renew).chain == renewed.chain


def test_in_a_secure_sum_one_chain_stands_for_devices_of_both_keys(kept: Kept, pi: Applicant, tmp_path: Path) -> None:
    office, late = kept.office, Applicant(tmp_path, "late")
    office.ask(pi)
    save_key(tmp_path / "service.key", office.key)
    config = Config(
        service=ServiceSettings(fleet="f", folder="state", key=str(tmp_path / "service.key")),
        authority=AuthoritySettings(folder=str(office.folder / "ca"), host="127.0.0.1"),
        devices=DevicesSettings(),
    )
    chain_of = chain_source(config, office.devices, office.clock)
    assert chain_of is not None
    before = chain_of("pi")
    kept.change_key()
    kept.days(0.01)
    office.give_token(bytes(16))
    office.ask(late, secret=bytes(16))
    chains = [chain_of("pi"), chain_of("late"), chain_of("pi")]
    assert len({chain[1:] for chain in chains}) == 1
    assert chains[0] == chains[2] != before
    leaves, now_unix_s = [chain[0] for chain in chains[:2]], office.clock.unix_s()
    found = check_peers(leaves, chains[0][1:], root=office.authority.root, unix_s=now_unix_s)
    assert {name: key.raw for name, key in found.items()} == {"pi": pi.key.public.raw, "late": late.key.public.raw}
    renewed = office.issuance.renew("pi", Renew(request=make_request("pi", pi.tls_key)))
    assert renewed.chain == chains[0]
    assert chain_of("stranger") == ()


def test_the_operator_is_warned_half_a_year_before_the_issuing_certificate_ends(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    ends = kept.office.authority.issuing_ends_unix_s
    assert ends_soon(ends, ends - WARN_S - 1) is None
    assert "ends on" in str(ends_soon(ends, ends - WARN_S))
    assert "ended on" in str(ends_soon(ends, ends + 1))
    kept.days(ISSUING_LIFE.days - 100)
    assert caplog.messages == ["issuing-ends"]
    kept.days(101)
    assert caplog.messages[1:] == ["issuing-ended", "issuing-ends"]


def test_when_the_issuing_certificate_has_ended_claims_wait_and_the_service_lives(
    kept: Kept, pi: Applicant, tmp_path: Path
) -> None:
    office = kept.office
    office.ask(pi)
    office.clock.now += ISSUING_LIFE.total_seconds() + DAY_S
    office.give_token(bytes(16))
    with pytest.raises(AssertionError):  # no answer
        office.ask(Applicant(tmp_path, "other"), secret=bytes(16))
    with pytest.raises(Exception, match="edgefold authority renew"):
        office.issuance.renew("pi", Renew(request=make_request("pi", pi.tls_key)))
    kept.change_key()
    kept.days(0.01)
    assert office.ask(Applicant(tmp_path, "other"), secret=bytes(16)).status == "enrolled"


def test_tokens_and_certificates_of_years_stay_bounded(kept: Kept, pi: Applicant) -> None:
    office = kept.office
    office.ask(pi)
    renew, most = Renew(request=make_request("pi", pi.tls_key)), 0
    for week in range(52):
        kept.days(7)
        office.issuance.renew("pi", renew)
        office.give_token(week.to_bytes(16, "big"))
        most = max(most, len(office.devices.certificates("pi")) + len(office.devices.tokens()))
    assert most <= 2 * (KEEP_S / LIFE_S + 3)
    assert office.registry.key_of("pi") is not None
    assert office.issuance.renew("pi", renew).chain


def test_what_is_pruned_gives_no_second_certificate_and_no_revoked_device_back(kept: Kept, pi: Applicant) -> None:
    office = kept.office
    office.ask(pi)
    kept.days((KEEP_S - HOUR_S) / DAY_S)
    assert office.ask(pi).status == "enrolled"  # still the answer of before
    assert len(office.devices.certificates("pi")) == 1
    kept.days(1)
    assert office.ask(pi).reason == "unknown-token"
    assert len(office.devices.certificates("pi")) == 1  # its last one stays: `devices show`
    office.devices.revoke("pi", office.clock.unix_s())
    kept.days(365)
    office.give_token(SECRET)
    assert office.ask(pi).reason == "device-revoked"


def test_a_certificate_that_a_kept_token_names_stays(kept: Kept, pi: Applicant) -> None:
    office = kept.office
    (token,) = office.devices.tokens()
    with_year = dataclasses.replace(token, digest=bytes(32), expires_unix_s=office.clock.unix_s() + 365 * DAY_S)
    office.devices.add_tokens([with_year])
    first = office.ask(pi)
    serial = office.devices.certificates("pi")[0].serial
    office.devices.use_token(
        dataclasses.replace(with_year, device="pi", serial=serial), office.devices.devices()[0], None
    )
    for _ in range(20):
        kept.days(4)
        office.issuance.renew("pi", Renew(request=make_request("pi", pi.tls_key)))
    assert first.chain is not None
    assert office.devices.certificate(serial) is not None
