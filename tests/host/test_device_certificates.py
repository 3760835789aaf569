"""Neighbours' certificates: believed from the pinned root alone, for the key that the authority checked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aggregator.adapters.authority import Authority, make_authority
from host.certificates import der_of, load_pem, make_key, make_request, subject
from host.device_certificates import SKEW_S, check_peers, key_name, key_of
from protocol.errors import TrustError
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIFE_S = 86_400.0
KEY = SigningKey(bytes(32)).public.raw


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "authority", fleet="f", host="127.0.0.1", now=NOW)


def certified(authority: Authority, folder: Path, name: str = "pi-1") -> tuple[bytes, ...]:
    request = make_request(name, make_key(folder / f"{name}.key"))
    record = authority.issue(name, request, verify_key=KEY, life_s=LIFE_S, unix_s=NOW.timestamp())
    return authority.chain(record.der)


def test_a_device_is_known_by_the_key_that_its_certificate_names(authority: Authority, tmp_path: Path) -> None:
    leaf, *issuers = certified(authority, tmp_path)
    found = check_peers([leaf], issuers, root=authority.root, unix_s=NOW.timestamp())
    assert {name: key.raw for name, key in found.items()} == {"pi-1": KEY}


def test_another_fleets_certificate_is_not_believed(authority: Authority, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other", fleet="f", host="127.0.0.1", now=NOW)
    leaf, *issuers = certified(other, tmp_path)
    with pytest.raises(TrustError, match="does not come from the fleet's root"):
        check_peers([leaf], issuers, root=authority.root, unix_s=NOW.timestamp())


def test_a_device_cannot_sign_certificates_for_devices(authority: Authority, tmp_path: Path) -> None:
    key = make_key(tmp_path / "bad.key")
    record = authority.issue("bad", make_request("bad", key), verify_key=KEY, life_s=LIFE_S, unix_s=NOW.timestamp())
    chain = authority.chain(record.der)
    device = x509.load_der_x509_certificate(record.der)
    builder = x509.CertificateBuilder().subject_name(subject("victim")).issuer_name(device.subject)
    builder = builder.public_key(key.public_key()).serial_number(1).add_extension(key_name(KEY), critical=False)
    builder = builder.not_valid_before(device.not_valid_before_utc).not_valid_after(device.not_valid_after_utc)
    (forged,) = der_of([builder.sign(key, hashes.SHA256())])
    with pytest.raises(TrustError, match="may not sign"):
        check_peers([forged], chain, root=authority.root, unix_s=NOW.timestamp())


def test_a_certificate_that_has_ended_is_not_believed(authority: Authority, tmp_path: Path) -> None:
    leaf, *issuers = certified(authority, tmp_path)
    end_s = NOW.timestamp() + LIFE_S
    check_peers([leaf], issuers, root=authority.root, unix_s=end_s + SKEW_S - 60)
    with pytest.raises(TrustError, match="has ended"):
        check_peers([leaf], issuers, root=authority.root, unix_s=end_s + SKEW_S + 60)


def test_the_services_own_certificate_names_no_key(authority: Authority) -> None:
    own = load_pem(authority.file("service.pem"))
    assert key_of(own[0]) is None
    leaf, issuer = der_of(own)
    with pytest.raises(TrustError, match="names no key"):
        check_peers([leaf], [issuer], root=authority.root, unix_s=NOW.timestamp())
