"""The storage of a simulated service as servers that can be killed: PostgreSQL and an S3 server of its own.

Law: they end with the ``with`` block; nothing of a server that the system may run is touched.
"""

from __future__ import annotations

import contextlib
import os
import signal
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from deploy.local import free_ports
from deploy.object_server import BUCKET, KEYS, ObjectServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deploy.database_server import DatabaseServer

__all__ = ["StorageKind", "Victim", "started_storage"]

StorageKind: TypeAlias = Literal["files", "servers"]

_DEADLINE_S: Final = 20.0  # of a request: a busy machine, not a network


class Victim(Protocol):
    """Something that can be killed and started again."""

    def kill(self) -> None: ...  # noqa: D102
    def start(self) -> None: ...  # noqa: D102


class _Database:
    """A database server, ended by SIGKILL."""

    def __init__(self, server: DatabaseServer) -> None:
        self._server = server

    def kill(self) -> None:
        self._server.kill(signal.SIGKILL)

    def start(self) -> None:
        self._server.start()


@contextmanager
def started_storage(kind: StorageKind, folder: Path) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Victim]]]:
    """Give keys of ``[service]`` that name the storage, and its servers by name; none for ``files``.

    Raises:
        ConfigError: PostgreSQL, its driver or rclone is not installed (the user's fault).
        EngineError: a server does not start.
    """
    if kind == "files":
        yield {}, {}
        return
    from deploy.database_server import DatabaseServer  # noqa: PLC0415 - its driver is an extra

    with ExitStack() as stack:
        database = stack.enter_context(contextlib.closing(DatabaseServer()))
        objects = stack.enter_context(contextlib.closing(ObjectServer(folder / "objects", port=free_ports(1)[0])))
        objects.start()
        os.environ.update(KEYS)  # the service's, our child's
        settings = {
            "database": database.url(),
            "blobs": f"s3://{BUCKET}/blobs",
            "object_storage": {"endpoint_url": objects.endpoint_url, "deadline_s": _DEADLINE_S},
        }
        yield settings, {"database": _Database(database), "objects": objects}
