"""Runs the application on a thread of its own beside the pump.

Laws: the port is taken before the service begins, so that a taken one is a line at the start; a thread that ends is an
event and fails ``/healthz`` by silence, and rounds go on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Final, Self

import uvicorn

from aggregator.web.routes import make_app
from aggregator.web.sources import open_sources
from host.logs import event
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from aggregator.adapters.authority import Authority
    from aggregator.config import Config
    from aggregator.http_settings import HttpSettings
    from aggregator.pulse import Pulse
    from aggregator.setup import Folders

__all__ = ["WebServer"]

_END_WITHIN_S: Final = 5
_KEEP_ALIVE_S: Final = 15
_MAX_HEADER_BYTES: Final = 16 << 10
_BACKLOG: Final = 64


class WebServer:
    """A context manager: serves from its start to its end."""

    def __init__(self, config: Config, folders: Folders, *, pulse: Pulse, authority: Authority | None) -> None:
        """Take the port; ``folders`` has an upgraded database.

        Raises:
            ConfigError: there is no [http], the port is taken, or the certificate is no good (the user's fault).
            StorageError: the database cannot be read.
        """
        if config.http is None:
            raise ConfigError("http: missing")
        self._stack = contextlib.ExitStack()
        sources = self._stack.enter_context(open_sources(config, folders, pulse))
        try:
            self._socket = self._stack.enter_context(_listen(config.http))
            context = _tls(authority) if config.http.tls == "authority" else None
            app = make_app(sources)
        except BaseException:
            self._stack.close()
            raise
        address = self._socket.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"{'http' if context is None else 'https'}://{host}:{address[1]}/"
        settings = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            limit_concurrency=config.http.max_connections,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            ssl_context_factory=None if context is None else lambda _config, _default: context,
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        event("http-ready", url=self.url)
        return self

    def __exit__(self, *_: object) -> None:
        """Answer what was asked, for a second, and end."""
        self._server.should_exit = True
        self._thread.join(_END_WITHIN_S)
        self._stack.close()

    def _serve(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        except Exception:  # noqa: BLE001 - the thread's supervisor: rounds must go on
            event("http-failed", level=logging.ERROR, exc_info=True)


def _listen(settings: HttpSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"http: cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return listener


def _tls(authority: Authority | None) -> ssl.SSLContext:
    if authority is None:
        raise ConfigError('http.tls: "authority" needs [authority]; edgefold serve init makes one')
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(authority.file("server.pem"), authority.file("server.key"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{authority.file('server.pem')}: cannot be used for TLS: {error}") from error
    return context
