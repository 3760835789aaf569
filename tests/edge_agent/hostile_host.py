"""A bundle server that says what a test tells it to: raw bytes over the fleet's TLS. For tests of the device."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Answer = Callable[[str, int, ssl.SSLSocket], None]


class HostileHost:
    """Answers each request by ``answer(path, first byte, socket)`` and closes."""

    def __init__(self, authority: Path, answer: Answer) -> None:
        self.answer, self.asked = answer, list[tuple[str, int]]()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(authority / "server.pem", authority / "server.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/b"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as stream:
                stream.settimeout(10)
                head = b""
                while b"\r\n\r\n" not in head and (data := stream.recv(4096)):
                    head += data
                lines = head.decode().split("\r\n")
                ranges = [line.split("=")[1].rstrip("-") for line in lines if line.startswith("Range: bytes=")]
                path, first = lines[0].split(" ")[1].removeprefix("/b/"), int(ranges[0]) if ranges else 0
                self.asked.append((path, first))
                self.answer(path, first, stream)


def head(n_bytes: int | str, status: str = "200 OK", *more: str) -> bytes:
    """Return the head of an answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {n_bytes}", *more, "", ""]
    return "\r\n".join(lines).encode()
