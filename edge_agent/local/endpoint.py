"""Where the local process listens, and a small client for commands on the same machine.

Laws: asks 127.0.0.1 alone; an answer has a bound in bytes and a deadline.
"""

from __future__ import annotations

import http.client
import json
import os
from typing import TYPE_CHECKING, Any, Final

from host.durable import make_folder, read_bytes, write_bytes
from protocol.errors import ConfigError, EngineError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ask", "local_folder", "read_port", "write_endpoint"]

_MAX_FILE_BYTES: Final = 4096
_MAX_ANSWER_BYTES: Final = 64 * 2**20
_DEADLINE_S: Final = 120.0  # a first request loads the model, on a Pi Zero from a slow card


def local_folder(folder: Path) -> Path:
    """Return the local process's own folder inside the agent's, made if missing.

    Raises:
        StorageError: it cannot be made.
    """
    return make_folder(folder / "local")


def write_endpoint(folder: Path, *, port: int) -> None:
    """Say where this process listens."""
    write_bytes(local_folder(folder) / "endpoint.json", json.dumps({"port": port, "pid": os.getpid()}).encode())


def read_port(folder: Path) -> int | None:
    """Return where a local process said that it listens; whether it still does shows when it is asked."""
    try:
        port = json.loads(read_bytes(folder / "local" / "endpoint.json", max_bytes=_MAX_FILE_BYTES))["port"]
    except (OSError, StorageError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return port if type(port) is int and 0 < port < 65536 else None


def ask(
    port: int,
    method: str,
    path: str,
    body: object = None,
    *,
    bearer: str | None = None,
    deadline_s: float = _DEADLINE_S,
) -> dict[str, Any] | None:
    """Return the local process's answer, None if nobody listens there.

    Raises:
        ConfigError: it refused the request, with its reason (the asker's fault).
        EngineError: it could not answer, or what listens is no local process of ours.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=deadline_s)
    headers = {"Content-Type": "application/json"} | ({} if bearer is None else {"Authorization": f"Bearer {bearer}"})
    try:
        connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        response = connection.getresponse()
        status, data = response.status, response.read(_MAX_ANSWER_BYTES + 1)
    except ConnectionRefusedError:
        return None
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"the local process on port {port} did not answer: {error}") from error
    finally:
        connection.close()
    return _checked(port, status, data)


def _checked(port: int, status: int, data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data) if len(data) <= _MAX_ANSWER_BYTES else None
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise EngineError(f"what listens on port {port} is not edgefold's local process")
    if status == http.client.OK:
        return answer
    why = str(answer.get("error"))[:500]
    raise ConfigError(why) if status < http.client.INTERNAL_SERVER_ERROR else EngineError(why)
