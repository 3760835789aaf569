"""Who may connect to fetch bundles: a device whose certificate is the fleet's and not revoked, a few times at once.

Laws: TLS decides whose certificate it is before a byte of HTTP is read; the revocation list of the certificate's own
issuer decides at each new connection, as the broker's copy of it does, and an issuer without a list is distrusted; a
connection has a longest life, so a revoked device or one that drips is not kept.
"""

from __future__ import annotations

import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.x509.oid import NameOID
from uvicorn.protocols.http.h11_impl import H11Protocol

from aggregator.web.listening import server_context
from host.durable import read_bytes
from host.logs import event
from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from aggregator.adapters.authority import Authority
    from aggregator.bundle_settings import BundleSettings

__all__ = ["DeviceGate", "device_context", "gated_protocol"]

_MAX_CRL_BYTES = 64 << 20  # as ``adapters.authority`` has it
_END = b"-----END X509 CRL-----\n"


class DeviceGate:
    """Decides at each connection; of the server's thread alone."""

    def __init__(self, revocations: Path, settings: BundleSettings) -> None:
        """Believe the list in ``revocations``, read anew when the file changes.

        Raises:
            ConfigError: it cannot be read (the user's fault).
        """
        self._path, self._max = revocations, settings.max_device_connections
        self.max_connection_s = settings.max_connection_s
        self._open: Counter[str] = Counter()
        self._mtime_ns = -1
        self._revoked: dict[str, x509.CertificateRevocationList] = {}
        if not self._is_read():
            raise ConfigError(f"{revocations}: cannot be read")

    def admit(self, certificate: dict[str, Any] | None) -> str | None:
        """Return the device's name, or None if it may not connect now; ``leave`` with that name later."""
        facts = certificate or {}
        names, issuers = _common_names(facts, "subject"), _common_names(facts, "issuer")
        if len(names) != 1 or len(issuers) != 1 or not self._is_read() or issuers[0] not in self._revoked:
            return None
        serial = int(facts["serialNumber"], 16)
        if self._revoked[issuers[0]].get_revoked_certificate_by_serial_number(serial) is not None:
            event("bundle-connection-refused", device=names[0], why="revoked")
            return None
        if self._open[names[0]] >= self._max:
            return None
        self._open[names[0]] += 1
        return str(names[0])

    def leave(self, device: str) -> None:
        """Forget one connection of ``device``."""
        self._open[device] -= 1
        self._open += Counter()  # forgets those at zero

    def _is_read(self) -> bool:
        try:
            mtime_ns = self._path.stat().st_mtime_ns
            if mtime_ns != self._mtime_ns:
                self._revoked = _lists(read_bytes(self._path, max_bytes=_MAX_CRL_BYTES))
                self._mtime_ns = mtime_ns
        except (OSError, ValueError, StorageError):  # nobody is let in on a list that is not there
            return False
        return True


def _common_names(facts: dict[str, Any], holder: str) -> list[str]:
    return [str(value) for part in facts.get(holder, ()) for key, value in part if key == "commonName"]


def _lists(pem: bytes) -> dict[str, x509.CertificateRevocationList]:
    """Return the lists by their issuer's name, no two of which are the same."""
    parts = [part + _END for part in pem.split(_END) if part.strip()]
    lists = [x509.load_pem_x509_crl(part) for part in parts]
    return {str(one.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value): one for one in lists}


def device_context(authority: Authority) -> ssl.SSLContext:
    """Return a context that takes no connection without a certificate of the fleet's authority.

    Raises:
        ConfigError: a file of the authority cannot be used (the user's fault).
    """
    context = server_context(authority)
    try:
        context.load_verify_locations(authority.file("ca.pem"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{authority.file('ca.pem')}: cannot be used for TLS: {error}") from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def gated_protocol(gate: DeviceGate) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP, behind ``gate``."""

    class Gated(H11Protocol):
        _device: str | None = None
        _end: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
            self._device = gate.admit(transport.get_extra_info("peercert"))
            super().connection_made(transport)
            if self._device is None:
                transport.abort()
            else:
                self._end = self.loop.call_later(gate.max_connection_s, transport.abort)

        def data_received(self, data: bytes) -> None:
            if self._device is not None:
                super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._end is not None:
                self._end.cancel()
            if self._device is not None:
                gate.leave(self._device)
                self._device = None

    return Gated
