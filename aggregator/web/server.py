"""Runs the application on a thread of its own beside the pump; a thread that ends fails ``/healthz`` by silence."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

import uvicorn

from aggregator.web.listening import (
    KEEP_ALIVE_S,
    MAX_HEADER_BYTES,
    ServerThread,
    listen,
    load_certificate,
    server_context,
)
from aggregator.web.routes import make_app
from aggregator.web.sources import open_sources
from host.logs import event
from protocol.errors import ConfigError

if TYPE_CHECKING:
    import ssl

    from aggregator.adapters.authority import Authority
    from aggregator.config import Config
    from aggregator.folders import Folders
    from aggregator.pulse import Pulse

__all__ = ["WebServer"]


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
            listener = self._stack.enter_context(listen(config.http.host, config.http.port, table="http"))
            context = _tls(authority) if config.http.tls == "authority" else None
            app = make_app(sources)
        except BaseException:
            self._stack.close()
            raise
        address = listener.getsockname()
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
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            ssl_context_factory=None if context is None else lambda _config, _default: context,
        )
        reload = None if context is None or authority is None else lambda: load_certificate(context, authority)
        self._thread = ServerThread(uvicorn.Server(settings), listener, name="http", reload=reload)

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        event("http-ready", url=self.url)
        return self

    def __exit__(self, *_: object) -> None:
        """Answer what was asked, for a second, and end."""
        self._thread.stop()
        self._stack.close()


def _tls(authority: Authority | None) -> ssl.SSLContext:
    if authority is None:
        raise ConfigError('http.tls: "authority" needs [authority]; edgefold serve init makes one')
    return server_context(authority)
