"""Uploads in chunks in the service's database: of each device at most one, until its whole was taken.

Laws: a chunk and its traffic are one transaction, and so is a new upload that takes the place of an old one; the bytes
that all open uploads announced stay below the bound that is given. The chunks are rows and not blobs: content that a
device chooses must never share a name with what versions are made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from aggregator.adapters.sql_database import SqlDatabase, insert_into
from aggregator.adapters.sql_rounds import count_traffic
from aggregator.adapters.tables import UPLOAD_CHUNKS, UPLOADS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from aggregator.core.records import Traffic

__all__ = ["SqlUploads"]


class SqlUploads(SqlDatabase):
    """Implements ``aggregator.ports.UploadStore``; ``close`` it at the end."""

    def manifest(self, device: str) -> bytes | None:
        """Return the manifest of the device's open upload."""
        query = select(UPLOADS.c.manifest).where(UPLOADS.c.device == device)
        with self._reading() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else bytes(found)

    def have(self, device: str) -> frozenset[int]:
        """Return which chunks of it are there."""
        query = select(UPLOAD_CHUNKS.c.chunk).where(UPLOAD_CHUNKS.c.device == device)
        with self._reading() as connection:
            return frozenset(connection.execute(query).scalars())

    def chunks(self, device: str) -> Iterator[bytes]:
        """Yield its chunks in their order."""
        query = select(UPLOAD_CHUNKS.c.data).where(UPLOAD_CHUNKS.c.device == device).order_by(UPLOAD_CHUNKS.c.chunk)
        with self._reading() as connection:
            for data in connection.execute(query.execution_options(yield_per=8)).scalars():
                yield bytes(data)

    def begin(self, device: str, manifest: bytes, *, n_bytes: int, max_bytes: int, unix_s: float) -> bool:
        """Open an upload in place of another of this device; False, and nothing changed, if there is no room."""
        with self._writing() as connection:
            others = select(func.coalesce(func.sum(UPLOADS.c.n_bytes), 0)).where(UPLOADS.c.device != device)
            if int(connection.execute(others).scalar_one()) + n_bytes > max_bytes:
                return False
            _drop(connection, device)
            row = {"device": device, "manifest": manifest, "n_bytes": n_bytes, "touched_unix_s": unix_s}
            connection.execute(UPLOADS.insert(), row)
        return True

    def put(  # noqa: PLR0913 - one chunk and what is counted
        self, device: str, chunk: int, data: bytes, *, task: str, round_: int, traffic: Traffic, unix_s: float
    ) -> None:
        """Keep a chunk of the open upload; once more changes nothing but the traffic."""
        with self._writing() as connection:
            put = insert_into(connection, UPLOAD_CHUNKS).values(device=device, chunk=chunk, data=data)
            connection.execute(put.on_conflict_do_nothing())
            connection.execute(UPLOADS.update().where(UPLOADS.c.device == device).values(touched_unix_s=unix_s))
            count_traffic(connection, task, round_, device, traffic)

    def drop(self, device: str) -> None:
        """Forget the device's upload."""
        with self._writing() as connection:
            _drop(connection, device)

    def expire(self, *, before_unix_s: float) -> tuple[str, ...]:
        """Forget the uploads of which nothing came since then; return whose they were."""
        with self._writing() as connection:
            old = select(UPLOADS.c.device).where(UPLOADS.c.touched_unix_s < before_unix_s)
            devices = tuple(connection.execute(old.order_by(UPLOADS.c.device)).scalars())
            for device in devices:
                _drop(connection, device)
        return devices


def _drop(connection: Connection, device: str) -> None:
    for table in (UPLOAD_CHUNKS, UPLOADS):
        connection.execute(table.delete().where(table.c.device == device))
