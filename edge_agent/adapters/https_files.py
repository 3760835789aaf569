"""Reads one file from the fleet's bundle server by http.client: from any byte on, of a length that is known before.

Laws: never more than the expected bytes are taken, whatever the server says or sends; no redirect is followed; every
wait has an end, and so has a server that drips. What comes is only bytes: the caller hashes them. Foreign errors leave
as ``TransportError`` (try again later) or ``TrustError`` (this server contradicts itself).
"""

from __future__ import annotations

import http.client
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from protocol.errors import ConfigError, TransportError, TrustError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

__all__ = ["HttpsFiles", "parse_bundle_url"]

_TIMEOUT_S: Final = 30.0  # for a connection, and between two pieces
_CHUNK_BYTES: Final = 64 << 10
_WINDOW_S: Final = 60.0
_MIN_WINDOW_BYTES: Final = 4 << 10  # GPRS brings 100 kB in that time
_OK: Final = 200
_PART: Final = 206


class HttpsFiles:
    """The files below one address."""

    def __init__(self, url: str, tls: Callable[[], ssl.SSLContext], *, timeout_s: float = _TIMEOUT_S) -> None:
        """Use ``url``; ``tls`` makes the context of each connection.

        Raises:
            ConfigError: no such address (the user's fault).
        """
        parts = parse_bundle_url(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        self._tls, self._timeout_s = tls, timeout_s
        self.where = f"{self._host}:{self._port or http.client.HTTPS_PORT}"

    def read(self, path: str, *, first: int, n_bytes: int) -> Iterator[bytes]:
        """Yield the file from byte ``first`` on, or, if the server cannot begin there, ``b""`` and then all of it.

        Args:
            path: below the address.
            first: where to begin; below ``n_bytes``.
            n_bytes: how long the whole file is.

        Raises:
            TransportError: no connection, an answer that may change, or it ended or stalled in the middle.
            TrustError: the server's file is of another length (the server's fault).
        """
        headers = {"Range": f"bytes={first}-"} if first else {}
        with self._asked(path, headers) as response:
            is_part = response.status == _PART
            begin = first if is_part else 0
            if is_part and response.headers.get("Content-Range") != f"bytes {first}-{n_bytes - 1}/{n_bytes}":
                raise TrustError(f"{path}: not the range that was asked for, or a file of another length")
            if response.length is not None and response.length != n_bytes - begin:
                raise TrustError(f"{path}: expected {n_bytes - begin} bytes, the server has {response.length}")
            if first and not is_part:
                yield b""
            yield from _exactly(response, path, n_bytes - begin)

    def read_small(self, path: str, *, max_bytes: int) -> bytes:
        """Return a whole file of unknown length.

        Raises:
            TransportError, TrustError: as ``read`` says; it is longer than ``max_bytes``.
        """
        with self._asked(path, {}) as response:
            length = response.length
            if length is None or length > max_bytes:
                raise TrustError(f"{path}: expected a stated length of at most {max_bytes} bytes")
            return b"".join(_exactly(response, path, length))

    def status_of(self, path: str) -> int:
        """Return the status with which the server answers, whatever it is.

        Raises:
            TransportError: there was no answer.
        """
        with self._connected(path, {}) as response:
            return response.status

    @contextmanager
    def _asked(self, path: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        with self._connected(path, headers) as response:
            if response.status not in (_OK, _PART) or (response.status == _PART and not headers):
                raise TransportError(f"{self.where}: status {response.status} for {path}")
            yield response

    @contextmanager
    def _connected(self, path: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        try:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=self._tls()
            )
            try:
                connection.request("GET", f"{self._path}/{path}", headers={"Connection": "close", **headers})
                yield connection.getresponse()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransportError(f"{self.where}: {path}: {str(error) or type(error).__name__}") from error
        except ConfigError as error:  # the certificate's files, which may come back
            raise TransportError(str(error)) from error


def parse_bundle_url(url: str) -> SplitResult:
    """Return the parts of the address of a bundle server.

    Raises:
        ConfigError: not ``https://HOST[:PORT][/PATH]`` (the user's fault).
    """
    try:
        parts = urlsplit(url)
        is_good = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, is_good = SplitResult("", "", "", "", ""), False
    if not is_good or parts.query or parts.fragment or parts.username is not None or not url.isprintable():
        raise ConfigError("bundles.url: expected https://HOST[:PORT][/PATH]")
    return parts


def _exactly(response: http.client.HTTPResponse, path: str, n_bytes: int) -> Iterator[bytes]:
    n_left, window_s, n_window = n_bytes, time.monotonic(), 0
    while n_left > 0:
        chunk = response.read1(min(_CHUNK_BYTES, n_left))
        if not chunk:
            raise TransportError(f"{path}: the connection ended {n_left} bytes early")
        n_left, n_window = n_left - len(chunk), n_window + len(chunk)
        yield chunk
        now_s = time.monotonic()
        if now_s - window_s > _WINDOW_S:
            if n_window < _MIN_WINDOW_BYTES:
                raise TransportError(f"{path}: only {n_window} bytes in {_WINDOW_S:.0f} s")
            window_s, n_window = now_s, 0
