"""Serves the files of ``BundleShelf`` over HTTPS to devices with a certificate: GET and HEAD, whole or from a byte on.

Ranges are RFC 9110, section 14: one range of bytes is understood, anything else is answered with the whole, as the RFC
allows. Nothing else of a request is looked at: no body, no query, no other method. Memory: one chunk a connection.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, Self

import uvicorn

from aggregator.web.device_gate import DeviceGate, device_context, gated_protocol
from aggregator.web.listening import KEEP_ALIVE_S, MAX_HEADER_BYTES, ServerThread, listen, load_certificate
from host.durable import open_plain
from host.logs import event
from protocol.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import FileIO

    from aggregator.adapters.authority import Authority
    from aggregator.bundle_settings import BundleSettings
    from aggregator.bundle_shelf import BundleShelf, ShelvedFile

__all__ = ["BundleServer", "byte_range"]

_CHUNK_BYTES: Final = 256 << 10
_RANGE: Final = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?", re.ASCII)
_FOR_A_YEAR: Final = b"private, max-age=31536000, immutable"  # the path names the content


class BundleServer:
    """A context manager: serves from its start to its end."""

    def __init__(self, settings: BundleSettings, shelf: BundleShelf, authority: Authority) -> None:
        """Take the port.

        Raises:
            ConfigError: it is taken, or a file of the authority is no good (the user's fault).
        """
        gate = DeviceGate(authority.file("crl.pem"), settings)
        context = device_context(authority)
        self._socket = listen(settings.host, settings.port, table="bundles")
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            _App(shelf),
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            http=gated_protocol(gate),
            loop="asyncio",
            limit_concurrency=settings.max_connections + 1,  # uvicorn counts the asking connection too
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            ssl_context_factory=lambda _config, _default: context,
        )
        self._thread = ServerThread(
            uvicorn.Server(config), self._socket, name="bundles", reload=lambda: load_certificate(context, authority)
        )

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        event("bundles-ready", port=self.port)
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._thread.stop()
        self._socket.close()


class _App:
    """The ASGI application."""

    def __init__(self, shelf: BundleShelf) -> None:
        self._shelf = shelf

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own types are maps
        if scope["type"] != "http":
            return
        if scope["method"] not in ("GET", "HEAD"):
            await _refuse(send, 405, allow=b"GET, HEAD")
            return
        found = self._shelf.find(scope["path"])
        if found is None:
            await _refuse(send, 404)
            return
        try:
            with open_plain(found.path, follow_links=False) as file:
                gone = asyncio.ensure_future(_until_gone(receive))
                try:
                    await _send(send, file, found, scope, gone)
                finally:
                    gone.cancel()
        except (FileNotFoundError, StorageError) as error:
            event("bundle-file-missing", error=str(error))
            await _refuse(send, 404)


def byte_range(headers: Iterable[tuple[bytes, bytes]], found: ShelvedFile) -> tuple[int, int] | None:
    """Return first byte and length of what is asked for; the whole if no single range of this content is.

    None: the range begins beyond the end, which is status 416.
    """
    said = dict(headers)
    whole = 0, found.n_bytes
    if said.get(b"if-range", _tag(found)) != _tag(found):
        return whole
    match = _RANGE.fullmatch(said.get(b"range", b"").decode("latin-1"))
    if match is None:
        return whole
    first = int(match[1])
    last = min(int(match[2]) if match[2] else found.n_bytes - 1, found.n_bytes - 1)
    if first >= found.n_bytes:
        return None
    return (first, last - first + 1) if first <= last else whole


async def _send(send: Any, file: FileIO, found: ShelvedFile, scope: Any, gone: asyncio.Future[None]) -> None:  # noqa: ANN401 - as above
    span = byte_range(scope["headers"], found)
    if span is None:
        await _refuse(send, 416, content_range=f"bytes */{found.n_bytes}".encode())
        return
    first, n_left = span
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", str(n_left).encode()),
        (b"accept-ranges", b"bytes"),
        (b"etag", _tag(found)),
        (b"cache-control", _FOR_A_YEAR),
    ]
    is_part = n_left != found.n_bytes
    if is_part:
        headers.append((b"content-range", f"bytes {first}-{first + n_left - 1}/{found.n_bytes}".encode()))
    await send({"type": "http.response.start", "status": 206 if is_part else 200, "headers": headers})
    if scope["method"] == "HEAD":
        n_left = 0
    file.seek(first)
    while n_left > 0 and not gone.done():
        chunk = await asyncio.to_thread(file.read, min(n_left, _CHUNK_BYTES))
        if not chunk:
            event("bundle-file-missing", error=f"{found.path}: shorter than its manifest says")
            return  # the connection ends, unfinished
        n_left -= len(chunk)
        await send({"type": "http.response.body", "body": chunk, "more_body": n_left > 0})
    if scope["method"] == "HEAD" or not found.n_bytes:
        await send({"type": "http.response.body"})


async def _until_gone(receive: Any) -> None:  # noqa: ANN401 - as above
    while (await receive())["type"] != "http.disconnect":
        pass


def _tag(found: ShelvedFile) -> bytes:
    return f'"{found.tag}"'.encode()


async def _refuse(send: Any, status: int, **headers: bytes) -> None:  # noqa: ANN401 - as above
    listed = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    listed.append((b"content-length", b"0"))
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body"})
