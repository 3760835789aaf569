"""A new issuing key under the root: what the old one signed holds on, whoever kills the renewal on its way."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from aggregator.adapters import issuing_keys
from aggregator.adapters.authority import Authority, make_authority
from aggregator.adapters.issuing_keys import ISSUING_LIFE, renew_issuing, settle
from host.certificates import check_chain, load_pem, make_key, make_request
from host.device_certificates import key_of
from protocol.errors import ConfigError
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.core.enrolment import CertificateRecord

NOW = datetime.now(UTC).replace(microsecond=0)
UNTIL = NOW.timestamp() + 9 * 86_400
VERIFY_KEY = SigningKey(bytes(32)).public.raw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_authority(tmp_path / "ca", fleet="f", host="127.0.0.1", now=NOW)
    return tmp_path / "ca"


class Held:
    """A device's key, and the certificate by whoever signs now."""

    def __init__(self, folder: Path, authority: Authority, *, unix_s: float = NOW.timestamp()) -> None:
        self.key = make_key(folder / "device.key")
        request = make_request("pi", self.key)
        self.record: CertificateRecord = authority.issue(
            "pi", request, verify_key=VERIFY_KEY, life_s=86_400, unix_s=unix_s
        )

    def check(self, authority: Authority, record: CertificateRecord | None = None) -> None:
        """The chain leads to the root."""
        chain = authority.chain((record or self.record).der)
        assert len(chain) == 2
        check_chain(chain, root=authority.root, name="pi", key=self.key.public_key())


def renew(folder: Path, *, until_unix_s: float | None = UNTIL, root_key: Path | None = None) -> Any:
    return renew_issuing(
        folder, "f", root_key_file=root_key or folder / "root.key", keep_until_unix_s=until_unix_s, now=NOW
    )


def test_old_and_new_certificates_hold_and_new_ones_are_by_the_new_key(folder: Path, tmp_path: Path) -> None:
    authority = Authority(folder)
    held = Held(tmp_path, authority)
    made = renew(folder, root_key=(folder / "root.key").rename(tmp_path / "offline.key"))
    assert authority.refresh()
    assert not authority.refresh()
    held.check(authority)
    assert not authority.is_by_present(held.record.der)
    again = authority.issue_again(held.record, verify_key=VERIFY_KEY, life_s=86_400, unix_s=NOW.timestamp())
    held.check(authority, again)
    assert key_of(x509.load_der_x509_certificate(again.der)) == VERIFY_KEY
    assert x509.load_der_x509_certificate(again.der).issuer == made.subject
    assert {path.name for path in folder.glob("*.key")} >= {f"issuing-{made.serial_number:x}.key"}
    assert not (folder / "issuing.key").exists()
    assert [one.subject for one in load_pem(folder / "ca.pem")][-1] == authority.root.subject
    assert len(load_pem(folder / "ca.pem")) == 3
    assert [path.stat().st_mode & 0o777 for path in folder.glob("*.key")] == [0o600] * 5


def test_there_is_a_revocation_list_of_each_issuing_key_by_itself(folder: Path) -> None:
    authority = Authority(folder)
    renew(folder)
    authority.refresh()
    authority.write_crl([7], unix_s=NOW.timestamp())
    pem = (folder / "crl.pem").read_bytes()
    parts = [part + b"-----END X509 CRL-----\n" for part in pem.split(b"-----END X509 CRL-----\n") if part]
    lists = [x509.load_pem_x509_crl(part) for part in parts]
    issuers = load_pem(folder / "ca.pem")[:2]
    for one, issuer in zip(lists, issuers, strict=True):
        assert one.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # ours are of elliptic curves
        assert one.get_revoked_certificate_by_serial_number(7) is not None
    authority.write_crl([], unix_s=NOW.timestamp())


def test_a_former_key_is_forgotten_when_its_time_has_passed(folder: Path) -> None:
    authority = Authority(folder)
    renew(folder)
    authority.refresh()
    assert not authority.retire(UNTIL - 1)
    assert authority.retire(UNTIL + 1)
    assert list(folder.glob("former-*")) == []
    assert len(load_pem(folder / "ca.pem")) == 2
    authority.write_crl([], unix_s=NOW.timestamp())
    assert (folder / "crl.pem").read_bytes().count(b"BEGIN") == 1


def test_after_a_theft_nothing_of_the_old_key_is_left(folder: Path, tmp_path: Path) -> None:
    held = Held(tmp_path, Authority(folder))
    renew(folder)
    renew(folder, until_unix_s=None)
    authority = Authority(folder)
    assert authority.chain(held.record.der) == (held.record.der,)
    assert list(folder.glob("former-*")) == []
    assert len(list(folder.glob("issuing*.key"))) == 1


def test_another_roots_key_changes_nothing(folder: Path, tmp_path: Path) -> None:
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    make_key(tmp_path / "other.key")
    for path in (tmp_path / "other.key", tmp_path / "none.key"):
        with pytest.raises(ConfigError, match=r"other\.key: not the key of|no such key file"):
            renew(folder, root_key=path)
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before


def test_a_renewal_that_is_killed_anywhere_leaves_a_whole_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    finished, step = False, 0
    while not finished:
        folder = tmp_path / f"ca{step}"
        authority = make_authority(folder, fleet="f", host="127.0.0.1", now=NOW)
        held = Held(tmp_path, authority)
        left = step

        def counted(inner: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return inner(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in ("save_pem", "write_bytes", "make_key", "remove"):
                patch.setattr(issuing_keys, name, counted(getattr(issuing_keys, name)))
            try:
                renew(folder)
                finished = True
            except Killed:
                step += 1
        settle(folder)
        after = Authority(folder)
        held.check(after)
        Held(tmp_path, after).check(after)
        after.write_crl([], unix_s=NOW.timestamp())
        renew(folder)  # and then again, to the end
        held.check(Authority(folder))
    assert step >= 6


def test_an_issuing_certificate_that_has_ended_signs_nothing_and_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    authority, late = Authority(folder), NOW + ISSUING_LIFE + timedelta(days=1)
    assert authority.issuing_ends_unix_s == (NOW + ISSUING_LIFE).timestamp()
    with pytest.raises(ConfigError, match="edgefold authority renew"):
        Held(tmp_path, authority, unix_s=late.timestamp())
    with pytest.raises(ConfigError, match="edgefold authority renew"):
        authority.renew_own("127.0.0.1", now=late)
    authority.write_crl([], unix_s=late.timestamp())  # nothing of it holds, and no list is needed


def test_near_its_end_the_brokers_certificate_is_made_once_and_not_at_every_look(folder: Path) -> None:
    authority, near = Authority(folder), NOW + ISSUING_LIFE - timedelta(days=10)
    assert authority.renew_own("127.0.0.1", now=near)
    assert not authority.renew_own("127.0.0.1", now=near + timedelta(days=1))


def test_the_brokers_certificate_follows_the_issuing_key(folder: Path) -> None:
    authority = Authority(folder)
    assert not authority.renew_own("127.0.0.1", now=NOW)
    made = renew(folder)
    authority.refresh()
    assert authority.renew_own("127.0.0.1", now=NOW)
    assert [one.issuer for one in load_pem(folder / "server.pem")] == [made.subject, authority.root.subject]


def test_a_fleet_with_a_long_name_has_an_authority(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca", fleet="f" * 64, host="127.0.0.1", now=NOW)
    renew_issuing(
        tmp_path / "ca", "f" * 64, root_key_file=tmp_path / "ca" / "root.key", keep_until_unix_s=time.time(), now=NOW
    )
    assert authority.refresh()
