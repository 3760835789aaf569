"""X.509 on both sides: PEM files, certificate requests, and whether a chain is one's own.

Laws: keys are EC P-256 (TLS 1.3 everywhere, and what a TPM can hold); whoever checks a chain says whom it must be for,
which key, and which root; of a stranger's request only name and public key are taken. No policy: how long, for whom
and whether at all is the aggregator's affair.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from host.durable import read_bytes, write_bytes
from protocol.errors import ConfigError, MalformedMessageError, StorageError, TrustError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "MAX_PEM_BYTES",
    "NOT_X509",
    "check_chain",
    "check_issuers",
    "der_of",
    "load_key",
    "load_pem",
    "make_key",
    "make_request",
    "name_of",
    "open_request",
    "public_bytes",
    "save_pem",
    "subject",
]

MAX_PEM_BYTES = 64 * 1024  # a chain of ours has 2 kB
# What the library says of a certificate or request that is none; UnsupportedAlgorithm, which `make fuzz` found, is no
# ValueError, nor are the four after it.
NOT_X509: Final = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.AttributeNotFound,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a private key and keep it in ``path``, readable by its owner alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_bytes(path, pem, mode=0o600)
    return key


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the private key in ``path``.

    Raises:
        ConfigError: missing, readable by others, or no such key (the user's fault).
    """
    try:
        data = read_bytes(path, max_bytes=MAX_PEM_BYTES)
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: a private key that others can read; run: chmod 600 {path}")
        key = serialization.load_pem_private_key(data, password=None)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such key file") from error
    except (*NOT_X509, StorageError) as error:
        raise ConfigError(f"{path}: not a private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: expected an elliptic curve key")
    return key


def load_pem(path: Path) -> tuple[x509.Certificate, ...]:
    """Return the certificates in ``path``.

    Raises:
        ConfigError: missing, or no certificates (the user's fault).
    """
    try:
        return tuple(x509.load_pem_x509_certificates(read_bytes(path, max_bytes=MAX_PEM_BYTES)))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such certificate") from error
    except (*NOT_X509, StorageError) as error:
        raise ConfigError(f"{path}: no certificate in PEM") from error


def save_pem(path: Path, certificates: Sequence[x509.Certificate]) -> None:
    """Keep ``certificates`` in ``path``; they are public."""
    pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
    write_bytes(path, pem, mode=0o644)


def der_of(certificates: Sequence[x509.Certificate]) -> tuple[bytes, ...]:
    """Return the certificates as they travel."""
    return tuple(one.public_bytes(serialization.Encoding.DER) for one in certificates)


def subject(name: str) -> x509.Name:
    """Return the subject of a certificate for ``name``."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def name_of(holder: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """Return the common name, empty if there is not exactly one."""
    names = holder.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def public_bytes(key: object) -> bytes:
    """Return the bytes that tell public keys apart (SubjectPublicKeyInfo, DER).

    Raises:
        MalformedMessageError: not an elliptic curve key (the peer's fault).
    """
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MalformedMessageError("expected an elliptic curve key")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def make_request(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a PKCS #10 request for ``name`` by ``key``, DER."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(name))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def open_request(data: bytes, *, name: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a request that is ``name``'s own and signed by that very key.

    Raises:
        MalformedMessageError: no request, for another name, of another kind of key, or not signed by it (the peer's).
    """
    try:
        request = x509.load_der_x509_csr(data)
        key = request.public_key()
        is_signed = request.is_signature_valid
        is_own = name_of(request) == name
    except NOT_X509 as error:
        raise MalformedMessageError("not a certificate request", reason="bad-request") from error
    is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    if not (is_p256 and is_signed and is_own):
        raise MalformedMessageError(f"not a request of {name} by a P-256 key of its own", reason="bad-request")
    return key  # type: ignore[return-value]  # is_p256 says so


def check_issuers(issuers: Sequence[x509.Certificate], *, root: x509.Certificate) -> x509.Certificate:
    """Return the certificate that may sign leaves: the first of ``issuers``, or ``root`` if there are none.

    RFC 5280, section 6.1.4: whatever signs must be an authority (basic constraints), for certificates (key usage), with
    no more authorities below it than it allows. Without this every device could sign for every other.

    Args:
        issuers: from the one that signs leaves up to the one that ``root`` signed.
        root: the only root that is believed.

    Raises:
        TrustError: one of them may not sign what it signed, or was not signed by the next (the service's fault).
    """
    chain = (*issuers, root)
    try:
        for one, issuer in pairwise(chain):
            one.verify_directly_issued_by(issuer)
        for n_below, one in enumerate(chain):
            constraints = one.extensions.get_extension_for_class(x509.BasicConstraints).value
            usage = one.extensions.get_extension_for_class(x509.KeyUsage).value
            is_too_long = constraints.path_length is not None and n_below > constraints.path_length
            if not constraints.ca or not usage.key_cert_sign or is_too_long:
                raise TrustError(f"a certificate was signed by {name_of(one)}, which may not sign it")
    except NOT_X509 as error:
        raise TrustError("a certificate does not come from the fleet's root") from error
    return chain[0]


def check_chain(
    chain: Sequence[bytes], *, root: x509.Certificate, name: str, key: ec.EllipticCurvePublicKey
) -> tuple[x509.Certificate, ...]:
    """Return the certificates of ``chain``: its first is for ``name`` and ``key``, the others lead to ``root``.

    Raises:
        TrustError: any of it is not so (the service's fault).
    """
    try:
        certificates = tuple(x509.load_der_x509_certificate(one) for one in chain)
        own, *issuers = certificates
        own.verify_directly_issued_by(check_issuers(issuers, root=root))
        is_own = name_of(own) == name and public_bytes(own.public_key()) == public_bytes(key)
    except (*NOT_X509, MalformedMessageError) as error:
        raise TrustError(f"the certificate for {name} does not come from the fleet's root") from error
    if not is_own:
        raise TrustError(f"the certificate is not for {name} and its key")
    return certificates
