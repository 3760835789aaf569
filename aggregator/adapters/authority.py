"""The fleet's certificate authority: a root that signs once and can be taken away, and an issuing key that works.

    root.key, root.pem          signs the issuing certificate; the key may be moved offline after ``make``
    issuing.key, issuing.pem    signs devices, broker, service and the revocation list
    ca.pem                      issuing and root together, for the broker
    server.key, server.pem      the broker's, with its issuer
    service.key, service.pem    the aggregator's own as a client of the broker, with its issuer
    claim.key                   HPKE: what devices seal their claims to
    crl.pem                     who was revoked

Laws: a device's certificate is for clients alone and the broker's for servers alone, so that no device can stand for
the broker; nothing issued outlives its issuer; not-before is backdated by ``BACKDATE``, by which a device's clock may
be behind; a revocation list is always newer than the one before. Time is an argument.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from aggregator.core.enrolment import CertificateRecord
from host.certificates import der_of, load_key, load_pem, make_key, open_request, save_pem, subject
from host.device_certificates import key_name
from host.durable import make_folder, read_bytes, write_bytes
from host.keys import load_task_key, save_key
from host.tls import TlsFiles
from protocol.errors import ConfigError
from protocol.sealing import TaskKey
from protocol.signing import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["BACKDATE", "Authority", "make_authority"]

BACKDATE: Final = timedelta(
    hours=1
)  # how far a device's clock may be off; a Pi without network time drifts less a year
_ROOT_LIFE: Final = timedelta(days=20 * 365)
_ISSUING_LIFE: Final = timedelta(days=5 * 365)
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
        (self._issuing,) = load_pem(folder / "issuing.pem")
        self._key = load_key(folder / "issuing.key")
        self.claim_key = load_task_key(folder / "claim.key")

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
        key, now = open_request(request, name=device), datetime.fromtimestamp(unix_s, UTC)
        wanted = _client(device).add_extension(key_name(verify_key), critical=False)
        made = self._sign(wanted, key, life=timedelta(seconds=life_s), now=now)
        ends_unix_s = made.not_valid_after_utc.timestamp()
        (der,) = der_of([made])
        return CertificateRecord(serial=f"{made.serial_number:x}", device=device, ends_unix_s=ends_unix_s, der=der)

    def chain(self, der: bytes) -> tuple[bytes, ...]:
        """Return a certificate and what signed it, up to but without the root, all DER."""
        return der, *der_of([self._issuing])

    def renew_own(self, host: str, *, now: datetime) -> None:
        """Make the broker's and the service's certificates if they are missing, old, or for another host."""
        for name, builder in (("server", _server(host)), ("service", _client(SERVICE))):
            if not self._is_fresh(name, builder, now):
                key = make_key(self.file(f"{name}.key"))
                certificate = self._sign(builder, key.public_key(), life=_SERVER_LIFE, now=now)
                save_pem(self.file(f"{name}.pem"), [certificate, self._issuing])

    def make_eviction(self, device: str, *, unix_s: float) -> TlsFiles:
        """Return files with which the service takes over a revoked device's connection, for ten minutes."""
        now = datetime.fromtimestamp(unix_s, UTC)
        key = make_key(self.file(f"evict-{device}.key"))
        certificate = self._sign(_client(device), key.public_key(), life=_EVICTION_LIFE, now=now)
        save_pem(self.file(f"evict-{device}.pem"), [certificate, self._issuing])
        return self.files(f"evict-{device}")

    def write_crl(self, serials: Iterable[int], *, unix_s: float) -> None:
        """Replace the revocation list by one of exactly these certificates."""
        now = datetime.fromtimestamp(unix_s, UTC)
        at = now - BACKDATE
        if self.file("crl.pem").exists():
            # OpenSSL keeps older lists beside the new one and believes the latest, to the second.
            before = x509.load_pem_x509_crl(read_bytes(self.file("crl.pem"), max_bytes=MAX_CRL_BYTES)).last_update_utc
            at = max(at, before + _CRL_STEP)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._issuing.subject)
        builder = builder.last_update(at).next_update(min(now + _CRL_LIFE, self._issuing.not_valid_after_utc))
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            builder = builder.add_revoked_certificate(revoked)
        crl = builder.sign(self._key, hashes.SHA256())
        write_bytes(self.file("crl.pem"), crl.public_bytes(serialization.Encoding.PEM), mode=0o644)

    def _is_fresh(self, name: str, wanted: x509.CertificateBuilder, now: datetime) -> bool:
        if not (self.file(f"{name}.pem").exists() and self.file(f"{name}.key").exists()):
            return False
        certificate = load_pem(self.file(f"{name}.pem"))[0]
        same = all(
            any(mine.value == theirs.value for theirs in certificate.extensions)
            for mine in wanted._extensions  # noqa: SLF001 - the builder has no other way to read them
        )
        return same and certificate.not_valid_after_utc - now > _SERVER_RENEW

    def _sign(
        self, builder: x509.CertificateBuilder, key: ec.EllipticCurvePublicKey, *, life: timedelta, now: datetime
    ) -> x509.Certificate:
        end = min(now + life, self._issuing.not_valid_after_utc)
        builder = builder.add_extension(_signed_by(self._key.public_key()), critical=False)
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
    root_key, issuing_key = make_key(folder / "root.key"), make_key(folder / "issuing.key")
    root_name, issuing_name = subject(f"edgefold {fleet} root"), subject(f"edgefold {fleet} issuing")
    root = _authority(root_name, root_key.public_key(), path_length=1)
    root = root.issuer_name(root_name).not_valid_before(now - BACKDATE).not_valid_after(now + _ROOT_LIFE)
    issuing = _authority(issuing_name, issuing_key.public_key(), path_length=0)
    issuing = issuing.add_extension(_signed_by(root_key.public_key()), critical=False)
    issuing = issuing.issuer_name(root_name).not_valid_before(now - BACKDATE).not_valid_after(now + _ISSUING_LIFE)
    save_key(folder / "claim.key", TaskKey.generate())
    save_pem(folder / "root.pem", [root.sign(root_key, hashes.SHA256())])
    save_pem(folder / "issuing.pem", [issuing.sign(root_key, hashes.SHA256())])
    save_pem(folder / "ca.pem", [*load_pem(folder / "issuing.pem"), *load_pem(folder / "root.pem")])
    authority = Authority(folder)
    authority.renew_own(host, now=now)
    authority.write_crl([], unix_s=now.timestamp())
    return authority


def _authority(name: x509.Name, key: ec.EllipticCurvePublicKey, *, path_length: int) -> x509.CertificateBuilder:
    constraint = x509.BasicConstraints(ca=True, path_length=path_length)
    builder = _builder(name).public_key(key).add_extension(constraint, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    return builder.add_extension(_usage(signs_certificates=True), critical=True)


def _signed_by(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


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
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    return builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)


def _builder(name: x509.Name) -> x509.CertificateBuilder:
    return x509.CertificateBuilder().subject_name(name).serial_number(x509.random_serial_number())


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
