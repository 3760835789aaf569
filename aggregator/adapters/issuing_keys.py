"""The keys that an authority signs with: the present issuing key, and former ones while what they signed holds.

    issuing.pem                 the present issuing certificate; to replace this one file is to change the key
    issuing.key                 its key, as the authority was made, or
    issuing-SERIAL.key          its key, after a renewal
    former-UNTIL-SERIAL.pem     a former issuing certificate, needed until so many seconds of Unix time
    former-UNTIL-SERIAL.key     its key, for revocation lists alone

Laws: the root's key is read while a new issuing certificate is signed and is never written; a kill between any two
steps leaves the old key or the new one in use, and ``settle`` clears away what is left; no two issuing certificates
have one name, since a revocation list is found by its issuer's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from host.certificates import NOT_X509, load_key, load_pem, make_key, public_bytes, save_pem, subject
from host.durable import read_bytes, remove, write_bytes
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = [
    "BACKDATE",
    "ISSUING_LIFE",
    "IssuingKey",
    "authority_certificate",
    "former_keys",
    "key_usage",
    "make_issuing",
    "present_key",
    "renew_issuing",
    "retire",
    "settle",
    "signed_by",
]

BACKDATE: Final = timedelta(
    hours=1
)  # how far a device's clock may be off; a Pi without network time drifts less a year
ISSUING_LIFE: Final = timedelta(days=5 * 365)
_MAX_NAME_CHARS: Final = 32  # of the fleet, in a certificate's name, which has 64 at most (RFC 5280, appendix A.1)
_MAX_KEY_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingKey:
    """An issuing certificate and its key; ``until_unix_s`` is set for a former one."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    until_unix_s: float | None = None


def present_key(folder: Path) -> IssuingKey:
    """Return the issuing key in use.

    Raises:
        ConfigError: a file is missing, or they are not of one pair (the user's fault).
    """
    (certificate,) = load_pem(folder / "issuing.pem")
    path = _key_file(folder, certificate)
    key = load_key(path)
    if not _is_pair(certificate, key):
        raise ConfigError(f"{path}: not the key of {folder / 'issuing.pem'}")
    return IssuingKey(certificate=certificate, key=key)


def former_keys(folder: Path, present: IssuingKey) -> tuple[IssuingKey, ...]:
    """Return the former issuing keys that still sign revocation lists, whole pairs only.

    Raises:
        ConfigError: a file is no key or certificate (the user's fault).
    """
    found = {}
    for path in sorted(folder.glob("former-*.pem")):
        key_file = path.with_suffix(".key")
        if not key_file.exists():  # a renewal that was killed: the present key is still this one
            continue
        (certificate,) = load_pem(path)
        former = IssuingKey(certificate=certificate, key=load_key(key_file), until_unix_s=_until(path))
        if certificate != present.certificate:
            found[certificate.serial_number] = former
    return tuple(found.values())


def make_issuing(
    folder: Path, fleet: str, *, root: x509.Certificate, root_key: ec.EllipticCurvePrivateKey, now: datetime
) -> tuple[x509.Certificate, str]:
    """Make an issuing key in a file of its own and return its certificate, which is not in use yet, and the file."""
    serial = x509.random_serial_number()
    path = folder / f"issuing-{serial:x}.key"
    key = make_key(path)
    name = subject(f"edgefold {fleet[:_MAX_NAME_CHARS]} issuing {serial:x}"[:64])
    builder = authority_certificate(name, key.public_key(), path_length=0, serial=serial)
    builder = builder.add_extension(signed_by(root_key.public_key()), critical=False)
    end = min(now + ISSUING_LIFE, root.not_valid_after_utc)
    builder = builder.issuer_name(root.subject).not_valid_before(now - BACKDATE).not_valid_after(end)
    return builder.sign(root_key, hashes.SHA256()), path.name


def renew_issuing(
    folder: Path, fleet: str, *, root_key_file: Path, keep_until_unix_s: float | None, now: datetime
) -> x509.Certificate:
    """Put a new issuing key into use, and return its certificate.

    Args:
        folder: the authority's.
        fleet: its name.
        root_key_file: wherever the root's key is kept.
        keep_until_unix_s: until when the present key goes on signing revocation lists, so that certificates by it are
            taken; None distrusts them from now on.
        now: the time.

    Raises:
        ConfigError: the root's key is missing or another root's (the user's fault).
        StorageError: the folder cannot be written.
    """
    (root,) = load_pem(folder / "root.pem")
    root_key = load_key(root_key_file)
    if not _is_pair(root, root_key):
        raise ConfigError(f"{root_key_file}: not the key of {folder / 'root.pem'}")
    (before,) = load_pem(folder / "issuing.pem")
    if keep_until_unix_s is not None:
        name = f"former-{int(keep_until_unix_s)}-{before.serial_number:x}"
        save_pem(folder / f"{name}.pem", [before])
        key_bytes = read_bytes(_key_file(folder, before), max_bytes=_MAX_KEY_BYTES)
        write_bytes(folder / f"{name}.key", key_bytes, mode=0o600)
    made, _ = make_issuing(folder, fleet, root=root, root_key=root_key, now=now)
    save_pem(folder / "issuing.pem", [made])
    if keep_until_unix_s is None:
        for path in folder.glob("former-*"):
            remove(path)
    settle(folder)
    return made


def settle(folder: Path) -> None:
    """Remove issuing keys that are not in use, and write ``ca.pem`` anew; harmless at any time."""
    (present,) = load_pem(folder / "issuing.pem")
    in_use = _key_file(folder, present)
    for path in folder.glob("issuing*.key"):
        if path != in_use:
            remove(path)
    formers = [load_pem(path)[0] for path in sorted(folder.glob("former-*.pem"))]
    chain = dict.fromkeys([present, *formers, *load_pem(folder / "root.pem")])
    save_pem(folder / "ca.pem", list(chain))


def retire(folder: Path, unix_s: float) -> bool:
    """Remove former keys whose time has passed; return whether there were any."""
    over = [path for path in folder.glob("former-*") if _until(path) < unix_s]
    for path in over:
        remove(path)
    if over:
        settle(folder)
    return bool(over)


def authority_certificate(
    name: x509.Name, key: ec.EllipticCurvePublicKey, *, path_length: int, serial: int | None = None
) -> x509.CertificateBuilder:
    """Return the beginning of a certificate that may sign certificates, ``path_length`` authorities deep."""
    constraint = x509.BasicConstraints(ca=True, path_length=path_length)
    builder = x509.CertificateBuilder().subject_name(name).serial_number(serial or x509.random_serial_number())
    builder = builder.public_key(key).add_extension(constraint, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    return builder.add_extension(key_usage(signs_certificates=True), critical=True)


def signed_by(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    """Return the extension that says which key signed."""
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return what a key is for: certificates and revocation lists, or handshakes."""
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


def _key_file(folder: Path, certificate: x509.Certificate) -> Path:
    own = folder / f"issuing-{certificate.serial_number:x}.key"
    return own if own.exists() else folder / "issuing.key"


def _until(path: Path) -> float:
    until = path.stem.split("-")[1] if path.stem.count("-") == 2 else ""
    return float(until) if until.isdecimal() else float("inf")


def _is_pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    try:
        return public_bytes(certificate.public_key()) == public_bytes(key.public_key())
    except (*NOT_X509, InvalidSignature):
        return False
