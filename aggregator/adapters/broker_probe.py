"""Whether a broker can listen on a port, and whether it answers there."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from protocol.errors import ConfigError

__all__ = ["accepts", "answers_connect", "settle_port"]

_LOOPBACK: Final = "127.0.0.1"
_CONNECT_TIMEOUT_S: Final = 2.0  # for one try

# MQTT 5, section 3.1: CONNECT, level 5, clean start, keep-alive 5 s, no properties. The answer that accepts it (3.2) is
# a CONNACK (0x20) of one length byte, flags without a session, reason 0. Section 3.14: DISCONNECT, reason 0.
_CLIENT_ID: Final = b"edgefold-probe"
_BODY: Final = b"\x00\x04MQTT\x05\x02\x00\x05\x00" + len(_CLIENT_ID).to_bytes(2) + _CLIENT_ID
_CONNECT: Final = b"\x10" + bytes([len(_BODY)]) + _BODY
_ACCEPTED_TYPE, _ACCEPTED_TAIL = 0x20, b"\x00\x00"
_CONNACK_BYTES: Final = 4
_DISCONNECT: Final = b"\xe0\x00"


def settle_port(key: str, port: int) -> int:
    """Return ``port``, or a free one for 0.

    Raises:
        ConfigError: something listens there already (the user's fault).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as brokers do: links in TIME_WAIT don't count
        try:
            probe.bind((_LOOPBACK, port))
        except OSError as exc:
            raise ConfigError(
                f"broker.{key} = {port}: {exc.strerror}; end what uses it or choose another port"
            ) from exc
        return int(probe.getsockname()[1])


def answers_connect(host: str, port: int) -> bool:
    """Return whether an MQTT 5 CONNECT is accepted there; one bounded try."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), _CONNECT_TIMEOUT_S) as link:
        link.sendall(_CONNECT)
        answer = b""
        while len(answer) < _CONNACK_BYTES:
            received = link.recv(_CONNACK_BYTES - len(answer))
            if not received:
                return False
            answer += received
        link.sendall(_DISCONNECT)
        return answer[0] == _ACCEPTED_TYPE and answer[2:] == _ACCEPTED_TAIL
    return False


def accepts(host: str, port: int) -> bool:
    """Return whether a TCP connection is accepted there; one bounded try."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), _CONNECT_TIMEOUT_S):
        return True
    return False
