"""The fleet's certificate authority: a root that signs once and can be taken away, and an issuing key that works.

    root.key, root.pem          signs the issuing certificate; the key may be moved offline after ``make``
    issuing.pem and its key     signs devices, broker, service and the revocation list (``issuing_keys``)
    former-*                    former issuing keys, which sign revocation lists for what they issued
    ca.pem                      issuing certificates and root together, for the broker
    server.key, server.pem      the broker's, with its issuer
    service.key, service.pem    the aggregator's own as a client of the broker, with its issuer
    ingest-NAME.key and .pem    of an ingest worker, which may read updates and nothing else
    claim.key                   HPKE: what devices seal their claims to
    crl.pem                     who was revoked: one list for each issuing key, old and new

Laws: a device's certificate is for clients alone and the broker's for servers alone, so that no device can stand for
the broker; nothing issued outlives its issuer; not-before is backdated by ``BACKDATE``, by which a device's clock may
be behind; a revocation list is always newer than the one before. Time is an argument. The issuing key may change under
a running service: ``refresh`` notices.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from aggregator.adapters.issuing_keys import (
    BACKDATE,
    IssuingKey,
    authority_certificate,
    former_keys,
    key_usage,
    make_issuing,
    present_key,
    retire,
    settle,
    signed_by,
)
from aggregator.core.enrolment import CertificateRecord
from host.certificates import der_of, load_pem, make_key, open_request, save_pem, subject
from host.device_certificates import key_name
from host.durable import make_folder, read_bytes, write_bytes
from host.keys import load_task_key, save_key
from host.tls import TlsFiles
from protocol.errors import ConfigError, LocalProtocolError
from protocol.sealing import TaskKey
from protocol.signing import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["BACKDATE", "Authority", "make_authority"]

_MAX_FLEET_CHARS: Final = 48  # a certificate's name has 64 at most (RFC 5280, appendix A.1)
_ROOT_LIFE: Final = timedelta(days=20 * 365)
_SERVER_LIFE: Final = timedelta(days=398)  # the longest that browsers take; renewed by each start of the service
_SERVER_RENEW: Final = timedelta(days=90)  # ... that comes in its last three months
# An overdue list makes OpenSSL refuse everybody; it is written anew at every start and revocation.
_CRL_LIFE: Final = timedelta(days=5 * 365)
_EVICTION_LIFE: Final = timedelta(minutes=10)
MAX_CRL_BYTES: Final = 64 << 20  # a million revoked certificates have 40 MB
_CRL_STEP: Final = timedelta(seconds=1)  # times in a list are whole seconds


class Authority:
    """Signs with the issuing key; never touches the root's."""

    def __init__(self, folder: Path) -> None:
        """Open the authority that ``make_authority`` made.

        Raises:
            ConfigError: a file is missing or no key (the user's fault).
        """
        if not (folder / "issuing.pem").is_file():
            raise ConfigError(f"{folder}: no certificate authority; edgefold serve init makes one")
        self._folder = folder
        (self.root,) = load_pem(folder / "root.pem")
        self._read_keys()
        self.claim_key = load_task_key(folder / "claim.key")

    def _read_keys(self) -> None:
        self._stamp = _stamp(self._folder)
        present = present_key(self._folder)
        self._issuing, self._key = present.certificate, present.key
        self._keys = (present, *former_keys(self._folder, present))

    def refresh(self) -> bool:
        """Use the issuing key that is there now; return whether keys were changed by somebody else since.

        Raises:
            ConfigError: as for the constructor.
        """
        if _stamp(self._folder) == self._stamp:
            return False
        self._read_keys()
        return True

    @property
    def issuing_ends_unix_s(self) -> float:
        """Until when the issuing certificate holds; nothing it signs holds for longer."""
        return self._issuing.not_valid_after_utc.timestamp()

    def is_by_present(self, der: bytes) -> bool:
        """Return whether a certificate of ours was signed by the issuing key in use."""
        return x509.load_der_x509_certificate(der).issuer == self._issuing.subject

    def file(self, name: str) -> Path:
        """Return the path of one of the files listed above."""
        return self._folder / name

    def files(self, name: str) -> TlsFiles:
        """Return what a TLS client needs to be ``name``."""
        return TlsFiles(root=self.file("root.pem"), certificate=self.file(f"{name}.pem"), key=self.file(f"{name}.key"))

    def issue(
        self, device: str, request: bytes, *, verify_key: bytes, life_s: float, unix_s: float
    ) -> CertificateRecord:
        """Return a new client certificate for a device's own request, which also names its Ed25519 key.

        Raises:
            MalformedMessageError: the request is not the device's (the peer's fault).
        """
        key = open_request(request, name=device)
        return self._issue(device, key, verify_key=verify_key, life_s=life_s, unix_s=unix_s)

    def issue_again(
        self, held: CertificateRecord, *, verify_key: bytes, life_s: float, unix_s: float
    ) -> CertificateRecord:
        """Return a certificate by the present issuing key for the keys that a former one certified.

        Raises:
            ConfigError: the issuing certificate has ended (the operator's fault).
        """
        key = x509.load_der_x509_certificate(held.der).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise LocalProtocolError("a certificate of ours for a key that is none of ours")
        return self._issue(held.device, key, verify_key=verify_key, life_s=life_s, unix_s=unix_s)

    def _issue(
        self, device: str, key: ec.EllipticCurvePublicKey, *, verify_key: bytes, life_s: float, unix_s: float
    ) -> CertificateRecord:
        now = datetime.fromtimestamp(unix_s, UTC)
        wanted = _client(device).add_extension(key_name(verify_key), critical=False)
        made = self._sign(wanted, key, life=timedelta(seconds=life_s), now=now)
        ends_unix_s = made.not_valid_after_utc.timestamp()
        (der,) = der_of([made])
        return CertificateRecord(serial=f"{made.serial_number:x}", device=device, ends_unix_s=ends_unix_s, der=der)

    def chain(self, der: bytes) -> tuple[bytes, ...]:
        """Return a certificate and what signed it, up to but without the root, all DER; alone if that is distrusted."""
        issuer = x509.load_der_x509_certificate(der).issuer
        return der, *der_of([one.certificate for one in self._keys if one.certificate.subject == issuer])

    def renew_own(self, host: str, *, now: datetime, workers: Iterable[str] = ()) -> bool:
        """Make the broker's and the service's certificates if missing, old, for another host or by a former key.

        So are those of ingest workers: of those that have one, and of ``workers``.

        Returns:
            Whether the broker has a new one to read.

        Raises:
            ConfigError: the issuing certificate has ended (the operator's fault).
        """
        names = {f"ingest-{one}" for one in workers} | {path.stem for path in self._folder.glob("ingest-*.pem")}
        more = {"service": SERVICE, **{file: f"_{file}" for file in sorted(names)}}
        is_changed = False
        for name, builder in (("server", _server(host)), *((file, _client(one)) for file, one in more.items())):
            if not self._is_fresh(name, builder, now):
                key = make_key(self.file(f"{name}.key"))
                certificate = self._sign(builder, key.public_key(), life=_SERVER_LIFE, now=now)
                save_pem(self.file(f"{name}.pem"), [certificate, self._issuing])
                is_changed = True
        return is_changed

    def retire(self, unix_s: float) -> bool:
        """Forget former issuing keys when nothing that they signed holds any longer; return whether there were any."""
        is_changed = retire(self._folder, unix_s)
        if is_changed:
            self._read_keys()
        return is_changed

    def make_eviction(self, device: str, *, unix_s: float) -> TlsFiles:
        """Return files with which the service takes over a revoked device's connection, for ten minutes."""
        now = datetime.fromtimestamp(unix_s, UTC)
        key = make_key(self.file(f"evict-{device}.key"))
        certificate = self._sign(_client(device), key.public_key(), life=_EVICTION_LIFE, now=now)
        save_pem(self.file(f"evict-{device}.pem"), [certificate, self._issuing])
        return self.files(f"evict-{device}")

    def write_crl(self, serials: Iterable[int], *, unix_s: float) -> None:
        """Replace the revocation lists, one of each issuing key, by ones of exactly these certificates."""
        now = datetime.fromtimestamp(unix_s, UTC)
        at = now - BACKDATE
        if self.file("crl.pem").exists():
            # OpenSSL keeps older lists beside the new one and believes the latest, to the second.
            before = x509.load_pem_x509_crl(read_bytes(self.file("crl.pem"), max_bytes=MAX_CRL_BYTES)).last_update_utc
            at = max(at, before + _CRL_STEP)
        one = x509.RevokedCertificateBuilder().revocation_date(at)
        revoked = [one.serial_number(serial).build() for serial in serials]
        keys = [key for key in self._keys if key.certificate.not_valid_after_utc > at]
        lists = [_revocations(key, revoked, at=at, end=now + _CRL_LIFE) for key in keys]
        pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in lists)
        write_bytes(self.file("crl.pem"), pem, mode=0o644)

    def _is_fresh(self, name: str, wanted: x509.CertificateBuilder, now: datetime) -> bool:
        if not (self.file(f"{name}.pem").exists() and self.file(f"{name}.key").exists()):
            return False
        certificate = load_pem(self.file(f"{name}.pem"))[0]
        same = all(
            any(mine.value == theirs.value for theirs in certificate.extensions)
            for mine in wanted._extensions  # noqa: SLF001 - the builder has no other way to read them
        )
        is_by_present = certificate.issuer == self._issuing.subject
        # Near the issuing certificate's own end a new one would end as soon.
        is_last = certificate.not_valid_after_utc == self._issuing.not_valid_after_utc
        is_young = certificate.not_valid_after_utc - now > _SERVER_RENEW or (
            is_last and now < certificate.not_valid_after_utc
        )
        return same and is_by_present and is_young

    def _sign(
        self, builder: x509.CertificateBuilder, key: ec.EllipticCurvePublicKey, *, life: timedelta, now: datetime
    ) -> x509.Certificate:
        end = min(now + life, self._issuing.not_valid_after_utc)
        if end <= now:
            when = f"{self._issuing.not_valid_after_utc:%Y-%m-%d}"
            raise ConfigError(f"the issuing certificate ended on {when}: run edgefold authority renew")
        builder = builder.add_extension(signed_by(self._key.public_key()), critical=False)
        builder = builder.public_key(key).not_valid_before(now - BACKDATE).not_valid_after(end)
        return builder.issuer_name(self._issuing.subject).sign(self._key, hashes.SHA256())


def make_authority(folder: Path, *, fleet: str, host: str, now: datetime) -> Authority:
    """Make a new authority in ``folder``.

    Raises:
        ConfigError: there is one already (the user's fault).
        StorageError: it cannot be written.
    """
    if (folder / "root.pem").exists():
        raise ConfigError(f"{folder}: there is a certificate authority already; devices believe its root")
    make_folder(folder)
    root_key, root_name = make_key(folder / "root.key"), subject(f"edgefold {fleet[:_MAX_FLEET_CHARS]} root")
    builder = authority_certificate(root_name, root_key.public_key(), path_length=1)
    builder = builder.issuer_name(root_name).not_valid_before(now - BACKDATE).not_valid_after(now + _ROOT_LIFE)
    root = builder.sign(root_key, hashes.SHA256())
    issuing, issuing_key = make_issuing(folder, fleet, root=root, root_key=root_key, now=now)
    (folder / issuing_key).rename(folder / "issuing.key")
    save_key(folder / "claim.key", TaskKey.generate())
    save_pem(folder / "root.pem", [root])
    save_pem(folder / "issuing.pem", [issuing])
    settle(folder)
    authority = Authority(folder)
    authority.renew_own(host, now=now)
    authority.write_crl([], unix_s=now.timestamp())
    return authority


def _client(name: str) -> x509.CertificateBuilder:
    return _leaf(name, ExtendedKeyUsageOID.CLIENT_AUTH)


def _server(host: str) -> x509.CertificateBuilder:
    try:
        name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    names = list(dict.fromkeys([name, x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]))  # the service is beside it
    builder = _leaf("broker", ExtendedKeyUsageOID.SERVER_AUTH)
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False)


def _leaf(name: str, purpose: x509.ObjectIdentifier) -> x509.CertificateBuilder:
    builder = _builder(subject(name)).add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(key_usage(signs_certificates=False), critical=True)
    return builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)


def _builder(name: x509.Name) -> x509.CertificateBuilder:
    return x509.CertificateBuilder().subject_name(name).serial_number(x509.random_serial_number())


def _revocations(
    key: IssuingKey, revoked: list[x509.RevokedCertificate], *, at: datetime, end: datetime
) -> x509.CertificateRevocationList:
    builder = x509.CertificateRevocationListBuilder().issuer_name(key.certificate.subject)
    builder = builder.last_update(at).next_update(min(end, key.certificate.not_valid_after_utc))
    builder = builder.add_extension(signed_by(key.key.public_key()), critical=False)
    for one in revoked:
        builder = builder.add_revoked_certificate(one)
    return builder.sign(key.key, hashes.SHA256())


def _stamp(folder: Path) -> tuple[object, ...]:
    """Return what changes when the issuing key or the former ones do."""
    try:
        status = (folder / "issuing.pem").stat()
        return status.st_mtime_ns, status.st_ino, *sorted(path.name for path in folder.glob("former-*"))
    except OSError:
        return ()
