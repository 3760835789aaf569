"""TLS contexts: version 1.3 and nothing older, the fleet's own root and no other, the peer's name checked.

Laws: no certificate of the operating system is believed; ``pinned_later`` is the one context that checks no peer, for
fetching public bytes whose hash is known already.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TlsFiles", "authority_context", "client_context", "pinned_later"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of one party; read anew for each connection, so that a renewed certificate is used."""

    root: Path
    certificate: Path | None = None  # followed by its issuers
    key: Path | None = None


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context that believes ``files.root`` and shows ``files.certificate`` if there is one.

    Raises:
        ConfigError: a file is missing, no PEM, or key and certificate are not of one pair (the user's fault).
    """
    context = _tls13()
    try:
        context.load_verify_locations(files.root)
        if files.certificate is not None:
            context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{files.certificate or files.root}: cannot be used for TLS: {error}") from error
    return context


def authority_context(root: Path) -> ssl.SSLContext:
    """Return a context that believes the authority in ``root`` alone, and shows no certificate.

    Raises:
        ConfigError: the file is missing or no PEM (the user's fault).
    """
    return client_context(TlsFiles(root=root))


def pinned_later() -> ssl.SSLContext:
    """Return a context that checks nobody: what comes over it must be checked against a hash that is known."""
    context = _tls13()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _tls13() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the peer's chain and name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
