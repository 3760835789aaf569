"""A root, an issuer and a device's certificate, the same in every process: keys are derived from fixed numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from host.certificates import subject
from tests.protocol import samples

__all__ = ["KEY", "ROOT", "chain"]

_BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
_END: Final = datetime(2126, 1, 1, tzinfo=UTC)
KEY: Final = ec.derive_private_key(1001, ec.SECP256R1())
_ISSUER_KEY: Final = ec.derive_private_key(1002, ec.SECP256R1())
_ROOT_KEY: Final = ec.derive_private_key(1003, ec.SECP256R1())


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    builder = x509.CertificateBuilder().subject_name(subject(name)).issuer_name(subject(issuer))
    builder = builder.not_valid_before(_BEGIN).not_valid_after(_END).serial_number(7).public_key(key.public_key())
    is_authority = name != samples.DEVICE
    builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    usage |= {"encipher_only": False, "decipher_only": False}
    usage |= {"digital_signature": not is_authority, "key_cert_sign": is_authority}
    builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    return builder.sign(by, hashes.SHA256(), ecdsa_deterministic=True)


ROOT: Final = _certificate("root", _ROOT_KEY, "root", _ROOT_KEY)


def chain() -> tuple[x509.Certificate, x509.Certificate]:
    """Return the device's certificate and its issuer's."""
    return (
        _certificate(samples.DEVICE, KEY, "issuing", _ISSUER_KEY),
        _certificate("issuing", _ISSUER_KEY, "root", _ROOT_KEY),
    )
