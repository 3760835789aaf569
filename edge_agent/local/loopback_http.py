"""HTTP on 127.0.0.1 by the standard library: JSON in, JSON out; what a path does is the routes' affair.

Laws: a request has ``READ_S`` seconds to arrive whole and its bounds in bytes, so that a slow drip holds a connection
for that long and no longer; a further connection than ``max_connections`` waits in the kernel's queue, is never refused
and never starts a thread; a page in a browser cannot ask: a body must be ``application/json`` (which a browser does not
send to another site without asking first, and nobody answers that) and the ``Host`` a name of this machine (so that a
name which someone makes point here does not count). An error is one JSON line, never a trace.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from host.logs import event as log
from protocol.errors import ConfigError, EdgefoldError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["READ_S", "Asked", "Refusal", "Routes", "start_server"]

READ_S: Final = 10.0  # for a request to arrive; on loopback it takes a millisecond
_HOSTS: Final = frozenset({"127.0.0.1", "localhost"})
_BACKLOG: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request whose frame was checked; ``body`` is what its JSON says, None for a GET."""

    body: Any
    bearer: str | None  # of ``Authorization: Bearer``


class Refusal(Exception):  # noqa: N818 - it is an answer
    """An answer with another status than 200."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        """Keep the status beside the text."""
        super().__init__(why)
        self.status = status


Routes: TypeAlias = "Mapping[tuple[str, str], Callable[[Asked], dict[str, Any]]]"  # by method and path


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # what was asked is answered before the process goes
    allow_reuse_address = True
    request_queue_size = _BACKLOG

    def __init__(self, port: int, routes: Routes, *, max_body_bytes: int, max_connections: int) -> None:
        self.routes, self.max_body_bytes = routes, max_body_bytes
        self._places = threading.BoundedSemaphore(max_connections)
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - socketserver's signature
        self._places.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - likewise
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - likewise
        log("local-request-broken")  # whoever asked has gone, or took too long


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "edgefold", ""
    protocol_version = "HTTP/1.0"  # a connection a request: nobody holds a place without asking
    timeout = READ_S

    def setup(self) -> None:
        super().setup()
        self._deadline = threading.Timer(READ_S, self._cut)
        self._deadline.name, self._deadline.daemon = "local-request-deadline", True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        with contextlib.suppress(OSError):
            super().finish()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        try:
            asked, route = self._read(method)
            self._deadline.cancel()  # it is here; computing takes as long as it takes
            answer, status = route(asked), HTTPStatus.OK
        except Refusal as refusal:
            answer, status = {"error": str(refusal)}, refusal.status
        except (ConfigError, RemoteProtocolError) as error:
            answer, status = {"error": str(error)}, HTTPStatus.BAD_REQUEST
        except EdgefoldError as error:
            answer, status = {"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE
        self._say(status, answer)

    def _read(self, method: str) -> tuple[Asked, Callable[[Asked], dict[str, Any]]]:
        if self.headers.get("Host", "").rpartition(":")[0] not in _HOSTS and self.headers.get("Host") not in _HOSTS:
            raise Refusal(HTTPStatus.FORBIDDEN, "the Host is not this machine")
        path = self.path.split("?", 1)[0]
        route = self.server.routes.get((method, path))
        if route is None:
            others = sorted(one for one, known in self.server.routes if known == path)
            if others:
                raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"this path takes {', '.join(others)}")
            raise Refusal(HTTPStatus.NOT_FOUND, "no such path")
        scheme, _, bearer = self.headers.get("Authorization", "").partition(" ")
        body = self._body() if method == "POST" else None
        return Asked(body=body, bearer=bearer.strip() if scheme.lower() == "bearer" else None), route

    def _body(self) -> Any:  # noqa: ANN401 - whatever was sent
        if self.headers.get_content_type() != "application/json":
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 16) or "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "a Content-Length is needed, and no Transfer-Encoding")
        if int(length) > self.server.max_body_bytes:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{length} bytes, at most {self.server.max_body_bytes} are taken (predict.max_body_bytes)",
            )
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise Refusal(HTTPStatus.BAD_REQUEST, "the body ended early")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, "the body is not JSON") from error

    def _say(self, status: HTTPStatus, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer what the standard library refuses by itself: a request line or headers beyond its bounds."""
        self.close_connection = True
        self._say(HTTPStatus(code), {"error": HTTPStatus(code).phrase})

    def log_message(self, *_: object) -> None:
        """Say nothing: a request is none of the log's business."""


def start_server(port: int, routes: Routes, *, max_body_bytes: int, max_connections: int) -> ThreadingHTTPServer:
    """Return a listening server, served by a thread of its own until ``shutdown``.

    Raises:
        ConfigError: the port is taken or not allowed (the owner's to choose).
    """
    try:
        server = _Server(port, routes, max_body_bytes=max_body_bytes, max_connections=max_connections)
    except OSError as error:
        raise ConfigError(f"predict.port {port}: cannot be listened on: {error.strerror}") from error
    threading.Thread(target=server.serve_forever, name="local-http", daemon=True).start()
    return server
