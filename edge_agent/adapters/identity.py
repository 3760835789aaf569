"""A device's identity on disk: ``FolderKeyStore`` keeps the private keys, ``IdentityFolder`` what enrolment brought.

    device.key                 Ed25519, signs messages (where ``device.key`` says)
    device.key.mldsa65         ML-DSA-65, signs them too in a fleet that asks for it
    identity/tls.key           EC P-256, for TLS alone
    identity/certificate.pem   the device's certificate and its issuers
    identity/root.pem          the fleet's root: the only one that is believed
    identity/enrolment.toml    the broker and the service's public key; written last, so it says that the rest is there

Laws: private keys are made here, have mode 0600 and never leave; a certificate is kept only after it was checked
against the root and the key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cryptography import x509

from host.certificates import NOT_X509, check_chain, load_key, load_pem, make_key, make_request, save_pem
from host.config import load
from host.durable import make_folder, sweep, write_bytes
from host.keys import load_or_make_signing_key
from host.tls import TlsFiles
from protocol.errors import ConfigError, TrustError
from protocol.fields import Hex, Length, Name, plain
from protocol.second_signature import SECOND_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from protocol.signing import SigningKey

__all__ = ["Enrolment", "FolderKeyStore", "IdentityFolder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What a device was told when it enrolled."""

    fleet: Name
    device: Name
    broker_url: Annotated[str, Length(1, 512)]
    service_key: Hex
    bundle_url: Annotated[str, Length(1, 512)] | None = None  # where bundles are fetched, if they can be
    service_second_key: Annotated[str, Length(2 * SECOND_KEY_BYTES, 2 * SECOND_KEY_BYTES)] | None = None  # ML-DSA-65


class FolderKeyStore:
    """Implements ``edge_agent.ports.KeyStore`` with files."""

    def __init__(self, *, signing_key: Path, folder: Path) -> None:
        """Keep the TLS key in ``folder``, made if it is missing."""
        self._signing_key, self._tls_key = signing_key, make_folder(folder) / "tls.key"

    def signing_key(self, *, with_second: bool = False) -> SigningKey:
        """Return the Ed25519 key, made if there is none; likewise the ML-DSA-65 key, if asked for.

        Raises:
            ConfigError: readable by others, or no such key.
        """
        return load_or_make_signing_key(self._signing_key, with_second=with_second)

    def certificate_request(self, device: str) -> bytes:
        """Return a PKCS #10 request by the TLS key, made if there is none.

        Raises:
            ConfigError: readable by others, or no such key.
        """
        return make_request(device, self._key())

    def tls_public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public half of the TLS key."""
        return self._key().public_key()

    def tls_key_file(self) -> Path:
        """Return the file that TLS reads."""
        return self._tls_key

    def _key(self) -> ec.EllipticCurvePrivateKey:
        return load_key(self._tls_key) if self._tls_key.exists() else make_key(self._tls_key)


class IdentityFolder:
    """What the fleet gave to this device."""

    def __init__(self, folder: Path, keys: FolderKeyStore) -> None:
        """Use ``folder``."""
        self._folder, self._keys = make_folder(folder), keys
        sweep(folder)

    @property
    def enrolment(self) -> Enrolment | None:
        """What was kept, or None if this device has not enrolled."""
        path = self._folder / "enrolment.toml"
        return load(Enrolment, path) if path.exists() else None

    def keep(self, enrolment: Enrolment, *, root: bytes, chain: Sequence[bytes]) -> None:
        """Keep a checked enrolment.

        Raises:
            TrustError: the certificate is not ours or not the fleet's (the service's fault).
        """
        try:
            anchor = x509.load_der_x509_certificate(root)
        except NOT_X509 as error:
            raise TrustError("the fleet's root is no certificate") from error
        certificates = check_chain(chain, root=anchor, name=enrolment.device, key=self._keys.tls_public_key())
        save_pem(self._folder / "root.pem", [anchor])
        save_pem(self._folder / "certificate.pem", certificates)
        # JSON text is a TOML string; none of the values holds DEL, the one difference.
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in plain(enrolment).items()]
        write_bytes(self._folder / "enrolment.toml", "".join(lines).encode())

    def keep_certificate(self, chain: Sequence[bytes], *, device: str) -> None:
        """Keep a renewed certificate.

        Raises:
            TrustError: it is not ours or not the fleet's (the service's fault), or ends before the one that is there
                (an old answer, sent again by whoever recorded it).
        """
        (root,) = load_pem(self._folder / "root.pem")
        certificates = check_chain(chain, root=root, name=device, key=self._keys.tls_public_key())
        if certificates[0].not_valid_after_utc.timestamp() < self.life_unix_s()[1]:
            raise TrustError("the certificate ends before the present one")
        save_pem(self._folder / "certificate.pem", certificates)

    def life_unix_s(self) -> tuple[float, float]:
        """Return from when until when the certificate holds.

        Raises:
            ConfigError: it is missing or damaged.
        """
        certificate = load_pem(self._folder / "certificate.pem")[0]
        return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()

    def tls_files(self) -> TlsFiles:
        """Return what a connection needs.

        Raises:
            ConfigError: this device has not enrolled.
        """
        if self.enrolment is None:
            raise ConfigError(f"{self._folder}: not enrolled; run: edgefold agent enrol --config FILE --token TOKEN")
        certificate, key = self._folder / "certificate.pem", self._keys.tls_key_file()
        return TlsFiles(root=self._folder / "root.pem", certificate=certificate, key=key)
