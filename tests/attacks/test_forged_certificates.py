"""A device's certificate signs for nobody: not for a neighbour, not for a device, not through a chain that says so."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from aggregator.adapters.authority import Authority, make_authority
from host.certificates import check_chain, der_of, load_key, load_pem, make_key, make_request, name_of, subject
from host.device_certificates import check_peers, key_name
from protocol.errors import TrustError
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIFE_S = 86_400.0
KEY = SigningKey(bytes(32)).public.raw


@dataclasses.dataclass(frozen=True)
class Signer:
    """Somebody with a key and a chain that ends below the root."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]


def usage(*, may_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=may_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def sign(signer: Signer, name: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool = False) -> Signer:
    """Sign as anybody with a key can: nothing but the reader's checks stands in the way."""
    issuer = x509.load_der_x509_certificate(signer.chain[0])
    builder = x509.CertificateBuilder().subject_name(subject(name)).issuer_name(issuer.subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    builder = builder.add_extension(usage(may_sign=is_authority), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
    builder = builder.add_extension(key_name(KEY), critical=False)
    builder = builder.not_valid_before(issuer.not_valid_before_utc).not_valid_after(issuer.not_valid_after_utc)
    return Signer(key, (*der_of([builder.sign(signer.key, hashes.SHA256())]), *signer.chain))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "authority", fleet="f", host="127.0.0.1", now=NOW)


@pytest.fixture
def mallory(authority: Authority, tmp_path: Path) -> Signer:
    key = make_key(tmp_path / "mallory.key")
    request = make_request("mallory", key)
    made = authority.issue("mallory", request, verify_key=KEY, life_s=LIFE_S, unix_s=NOW.timestamp())
    return Signer(key, authority.chain(made.der))


@pytest.fixture
def issuing(authority: Authority) -> Signer:
    """The service's issuing key, as if stolen: it may sign devices, and no other authorities."""
    return Signer(load_key(authority.file("issuing.key")), der_of(load_pem(authority.file("issuing.pem"))))


def believed(authority: Authority, signed: Signer) -> list[str]:
    """Return who would take the certificate for the victim's."""
    leaf, *issuers = signed.chain
    readers = []
    try:
        assert set(check_peers([leaf], issuers, root=authority.root, unix_s=NOW.timestamp())) == {"victim"}
        readers.append("neighbour")
    except TrustError:
        pass
    try:
        found = check_chain(signed.chain, root=authority.root, name="victim", key=signed.key.public_key())
        assert name_of(found[0]) == "victim"
        readers.append("device")
    except TrustError:
        pass
    return readers


def test_what_the_authority_signed_is_believed(authority: Authority, issuing: Signer, tmp_path: Path) -> None:
    """Else nothing below would say anything."""
    assert believed(authority, sign(issuing, "victim", make_key(tmp_path / "k"))) == ["neighbour", "device"]


def test_a_device_cannot_sign_for_another(authority: Authority, mallory: Signer, tmp_path: Path) -> None:
    assert believed(authority, sign(mallory, "victim", make_key(tmp_path / "k"))) == []


def test_an_authority_that_a_device_made_is_none(authority: Authority, mallory: Signer, tmp_path: Path) -> None:
    middle = sign(mallory, "edgefold f issuing", make_key(tmp_path / "middle"), is_authority=True)
    assert believed(authority, sign(middle, "victim", make_key(tmp_path / "k"))) == []


def test_the_issuing_key_makes_no_further_authorities(authority: Authority, issuing: Signer, tmp_path: Path) -> None:
    middle = sign(issuing, "second", make_key(tmp_path / "middle"), is_authority=True)
    assert believed(authority, sign(middle, "victim", make_key(tmp_path / "k"))) == []


@pytest.mark.parametrize(
    ("is_authority", "may_sign"), [(True, False), (True, None), (False, True), (False, False), (None, True)]
)
def test_only_an_authority_for_certificates_signs_devices(
    authority: Authority, tmp_path: Path, *, is_authority: bool | None, may_sign: bool | None
) -> None:
    """The root itself signed it; one of the two extensions is missing (None) or says no."""
    key, root_key = make_key(tmp_path / "other"), load_key(authority.file("root.key"))
    builder = x509.CertificateBuilder().subject_name(subject("other")).issuer_name(authority.root.subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    if is_authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    if may_sign is not None:
        builder = builder.add_extension(usage(may_sign=may_sign), critical=True)
    builder = builder.not_valid_before(authority.root.not_valid_before_utc)
    builder = builder.not_valid_after(authority.root.not_valid_after_utc)
    other = Signer(key, der_of([builder.sign(root_key, hashes.SHA256())]))
    assert believed(authority, sign(other, "victim", make_key(tmp_path / "k"))) == []
