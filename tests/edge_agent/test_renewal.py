"""An agent asks for its next certificate in time, keeps a good answer and refuses any other."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.adapters.identity import Enrolment, FolderKeyStore, IdentityFolder
from edge_agent.renewal import Renewal
from host.certificates import open_request, subject
from protocol.errors import ConfigError, RemoteProtocolError, TrustError
from protocol.messages import Certificate

if TYPE_CHECKING:
    from pathlib import Path


class Root:
    """An authority of one key."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.der = self.sign("root", self.key.public_key(), begin_s=-60, end_s=1e6, is_authority=True)

    def sign(
        self, name: str, key: ec.EllipticCurvePublicKey, *, begin_s: float, end_s: float, is_authority: bool = False
    ) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject(name)).issuer_name(subject("root")).public_key(key)
        builder = builder.not_valid_before(now + timedelta(seconds=begin_s))
        builder = builder.not_valid_after(now + timedelta(seconds=end_s)).serial_number(x509.random_serial_number())
        builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        usage = x509.KeyUsage(
            digital_signature=not is_authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=is_authority,
            crl_sign=is_authority,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


class Identity:
    """A device that enrolled."""

    def __init__(self, folder: Path, *, begin_s: float, end_s: float) -> None:
        self.root = Root()
        self.keys = FolderKeyStore(signing_key=folder / "device.key", folder=folder / "identity")
        self.folder = IdentityFolder(folder / "identity", self.keys)
        enrolment = Enrolment(fleet="f", device="pi", broker_url="mqtts://127.0.0.1:1", service_key="0" * 64)
        self.folder.keep(enrolment, root=self.root.der, chain=[self.sign(begin_s=begin_s, end_s=end_s)])

    def sign(self, *, begin_s: float, end_s: float) -> bytes:
        return self.root.sign("pi", self.keys.tls_public_key(), begin_s=begin_s, end_s=end_s)


def test_a_young_certificate_is_left_alone(tmp_path: Path) -> None:
    made = Identity(tmp_path, begin_s=-100, end_s=1000)
    assert Renewal("pi", made.folder, made.keys).due() is None


def test_an_old_one_is_renewed_once_and_the_answer_kept(tmp_path: Path) -> None:
    made = Identity(tmp_path, begin_s=-1000, end_s=500)
    renewal = Renewal("pi", made.folder, made.keys)
    renew = renewal.due()
    assert renew is not None
    assert open_request(renew.request, name="pi")
    assert renewal.due() is None  # asked a moment ago
    renewal.take(Certificate(chain=(made.sign(begin_s=-10, end_s=5000),)))
    assert made.folder.life_unix_s()[1] == pytest.approx(time.time() + 5000, abs=5)
    assert Renewal("pi", made.folder, made.keys).due() is None


def test_a_certificate_of_another_root_key_or_name_is_refused_and_the_present_one_stays(tmp_path: Path) -> None:
    made = Identity(tmp_path, begin_s=-1000, end_s=500)
    renewal, before = Renewal("pi", made.folder, made.keys), made.folder.life_unix_s()
    other_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    life = {"begin_s": -10.0, "end_s": 5000.0}
    own = made.keys.tls_public_key()
    bad = [
        Root().sign("pi", own, **life),
        made.root.sign("pi", other_key, **life),
        made.root.sign("x", own, **life),
        b"x",
    ]
    for der in bad:
        with pytest.raises(RemoteProtocolError):
            renewal.take(Certificate(chain=(der,)))
    assert made.folder.life_unix_s() == before


def test_nothing_is_kept_of_an_enrolment_that_does_not_hold(tmp_path: Path) -> None:
    keys = FolderKeyStore(signing_key=tmp_path / "device.key", folder=tmp_path / "identity")
    folder = IdentityFolder(tmp_path / "identity", keys)
    enrolment = Enrolment(fleet="f", device="pi", broker_url="mqtts://127.0.0.1:1", service_key="0" * 64)
    with pytest.raises(TrustError):
        folder.keep(enrolment, root=Root().der, chain=[Root().sign("pi", keys.tls_public_key(), begin_s=-1, end_s=9)])
    assert folder.enrolment is None
    with pytest.raises(ConfigError, match="agent enrol"):
        folder.tls_files()


def test_private_keys_are_made_once_and_are_the_owners_alone(tmp_path: Path) -> None:
    keys = FolderKeyStore(signing_key=tmp_path / "device.key", folder=tmp_path / "identity")
    first = (keys.signing_key().public.raw, keys.certificate_request("pi") and keys.tls_key_file().read_bytes())
    assert (keys.signing_key().public.raw, keys.tls_key_file().read_bytes()) == first
    assert (tmp_path / "device.key").stat().st_mode & 0o077 == 0
    assert keys.tls_key_file().stat().st_mode & 0o077 == 0
    keys.tls_key_file().chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        keys.certificate_request("pi")
