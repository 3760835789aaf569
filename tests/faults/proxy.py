"""A network that can be cut: forwards TCP to a broker, until it doesn't."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
from typing import Final

_CHUNK_BYTES: Final = 65536
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: the peer gets a reset and not an orderly end


class FlappingNetwork:
    """One listener; ``cut`` ends all connections and refuses new ones until ``heal``."""

    def __init__(self, port: int, *, seed: int) -> None:
        self._port, self._random, self._lock = port, random.Random(seed), threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._is_up, self._open = True, set[socket.socket]()
        self.n_connections = 0
        threading.Thread(target=self._accept, name="network", daemon=True).start()

    def cut(self) -> None:
        """Take the network away, in the middle of whatever is on it; half of the time by a reset."""
        with self._lock:
            self._is_up = False
            for one in self._open:
                with contextlib.suppress(OSError):
                    if self._random.random() < 0.5:
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    one.shutdown(socket.SHUT_RDWR)

    def heal(self) -> None:
        """Give it back."""
        with self._lock:
            self._is_up = True

    def close(self) -> None:
        """End for good."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._is_up:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._port), timeout=10)
                self._open |= {near, far}
                self.n_connections += 1
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        with contextlib.suppress(OSError), selectors.DefaultSelector() as ready:
            for one in other:
                ready.register(one, selectors.EVENT_READ)
            is_open = True
            while is_open:
                for key, _ in ready.select():
                    data = key.fileobj.recv(_CHUNK_BYTES)  # type: ignore[union-attr]  # these are sockets
                    is_open = is_open and bool(data)
                    other[key.fileobj].sendall(data)  # type: ignore[index]  # as above
        with self._lock:
            self._open -= {near, far}
        near.close()
        far.close()
