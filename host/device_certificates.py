"""A device's certificate as its neighbours in a secure sum see it: it names the device and its Ed25519 key.

The key stands in the certificate as a URI, ``urn:edgefold:ed25519:<64 hex digits>`` (subject alternative name, RFC 5280
section 4.2.1.6), put there by the authority that checked the device's claim.

Laws: a certificate is believed if its chain ends at the caller's root, it is for clients, and its time has not passed
by more than ``SKEW_S``. Does not know who was revoked: a revoked device's certificate holds here until it ends.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from host.certificates import NOT_X509, check_issuers, name_of
from protocol.errors import TrustError
from protocol.signing import VerifyKey

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SKEW_S", "check_peers", "key_name", "key_of"]

SKEW_S: Final = 3600.0  # as far as certificates are backdated: a device's clock may be off by so much
_PREFIX: Final = "urn:edgefold:ed25519:"


def key_name(verify_key: bytes) -> x509.SubjectAlternativeName:
    """Return the extension that binds a device's Ed25519 key, 32 bytes, to its certificate."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_PREFIX + verify_key.hex())])


def key_of(certificate: x509.Certificate) -> bytes | None:
    """Return the Ed25519 key that a certificate names, or None if it names none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(_PREFIX)]
        raw = bytes.fromhex(found[0].removeprefix(_PREFIX)) if len(found) == 1 else b""
    except NOT_X509:
        return None
    return raw if len(raw) == 32 else None


def check_peers(
    leaves: Sequence[bytes], issuers: Sequence[bytes], *, root: x509.Certificate, unix_s: float
) -> dict[str, VerifyKey]:
    """Return the keys by device name of certificates that the fleet's authority signed.

    Args:
        leaves: devices' certificates, DER.
        issuers: what signed them, up to but without ``root``, DER.
        root: the only root that is believed.
        unix_s: the time here.

    Raises:
        TrustError: one of them does not come from ``root``, has ended, is no device's, or names no key (the service's
            fault).
    """
    try:
        signer = check_issuers([x509.load_der_x509_certificate(one) for one in issuers], root=root)
        return dict(_peer(x509.load_der_x509_certificate(leaf), signer, unix_s) for leaf in leaves)
    except NOT_X509 as error:
        raise TrustError("a neighbour's certificate does not come from the fleet's root") from error


def _peer(leaf: x509.Certificate, issuer: x509.Certificate, unix_s: float) -> tuple[str, VerifyKey]:
    leaf.verify_directly_issued_by(issuer)
    now, skew = datetime.fromtimestamp(unix_s, UTC), timedelta(seconds=SKEW_S)
    name, raw = name_of(leaf), key_of(leaf)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    is_now = leaf.not_valid_before_utc - skew <= now <= leaf.not_valid_after_utc + skew
    if raw is None or not is_now or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise TrustError(f"the certificate of {name} names no key, has ended, or is no device's")
    return name, VerifyKey(raw)
