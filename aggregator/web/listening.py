"""A port, a certificate and a thread: what the servers of the service share.

Laws: the port is taken before the service begins, so that a taken one is a line at the start; a thread that ends is an
event, and rounds go on without it; a certificate that was made anew is taken up within ``RELOAD_S``, for connections
that begin then.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Final

from host.logs import event
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn

    from aggregator.adapters.authority import Authority

__all__ = [
    "KEEP_ALIVE_S",
    "MAX_HEADER_BYTES",
    "RELOAD_S",
    "ServerThread",
    "listen",
    "load_certificate",
    "server_context",
]

KEEP_ALIVE_S: Final = 15
MAX_HEADER_BYTES: Final = 16 << 10
RELOAD_S: Final = 3600.0
_END_WITHIN_S: Final = 5
_BACKLOG: Final = 64


class ServerThread:
    """Runs one server until ``stop``."""

    def __init__(
        self,
        server: uvicorn.Server,
        listener: socket.socket,
        *,
        name: str,
        reload: Callable[[], None] | None = None,
        reload_s: float = RELOAD_S,
    ) -> None:
        """Prepare.

        Args:
            server: what answers.
            listener: where.
            name: the thread's; begins its events.
            reload: called each ``reload_s`` seconds; may raise ConfigError, which is an event.
            reload_s: in seconds.
        """
        self._server, self._socket, self._name = server, listener, name
        self._reload, self._reload_s = reload, reload_s
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what was asked, for a second, and end."""
        self._server.should_exit = True
        self._thread.join(_END_WITHIN_S)

    def _serve(self) -> None:
        try:
            asyncio.run(self._answer())
        except Exception:  # noqa: BLE001 - the thread's supervisor: rounds must go on
            event(f"{self._name}-failed", level=logging.ERROR, exc_info=True)

    async def _answer(self) -> None:
        reloading = asyncio.create_task(self._keep_reloading())
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            reloading.cancel()

    async def _keep_reloading(self) -> None:
        while self._reload is not None:
            await asyncio.sleep(self._reload_s)
            try:
                self._reload()
            except ConfigError as error:  # between the writing of a key and of its certificate: the next time
                event(f"{self._name}-certificate-kept", level=logging.WARNING, why=str(error))


def listen(host: str, port: int, *, table: str) -> socket.socket:
    """Return a listening socket; ``table`` is whose settings these are.

    Raises:
        ConfigError: the port is taken, or there is no such address here (the user's fault).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{table}: cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def server_context(authority: Authority) -> ssl.SSLContext:
    """Return TLS 1.3 with the certificate that the authority made for the broker.

    Raises:
        ConfigError: the certificate cannot be used (the user's fault).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    load_certificate(context, authority)
    return context


def load_certificate(context: ssl.SSLContext, authority: Authority) -> None:
    """Let connections of ``context`` that begin from now on be answered with the authority's present certificate.

    Raises:
        ConfigError: the certificate cannot be used; ``context`` has the one that it had.
    """
    try:
        context.load_cert_chain(authority.file("server.pem"), authority.file("server.key"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{authority.file('server.pem')}: cannot be used for TLS: {error}") from error
