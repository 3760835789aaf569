"""Devices, certificates and tokens in the service's database.

Laws: every writing method is one transaction; the service and ``edgefold devices`` may both write, since each statement
that changes something says on what it depends; a row of a revoked device is never removed. What is decided is
``core.enrolment``'s affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ColumnElement, func, select

from aggregator.adapters.sql_database import SqlDatabase, insert_into
from aggregator.adapters.tables import CERTIFICATES, DEVICES, TOKENS
from aggregator.core.enrolment import CertificateRecord, DeviceRecord, TokenRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Table

__all__ = ["SqlDevices"]

R = TypeVar("R", DeviceRecord, TokenRecord, CertificateRecord)


class SqlDevices(SqlDatabase):
    """Implements ``aggregator.store_ports.DeviceStore``; ``close`` it at the end."""

    def device(self, device: str) -> DeviceRecord | None:
        """Return the device, or None."""
        return _one(self._records(DeviceRecord, DEVICES, DEVICES.c.device == device))

    def devices(self) -> list[DeviceRecord]:
        """Return all devices by name."""
        return self._records(DeviceRecord, DEVICES, order=DEVICES.c.device)

    def token(self, digest: bytes) -> TokenRecord | None:
        """Return the token with this digest, or None."""
        return _one(self._records(TokenRecord, TOKENS, TOKENS.c.digest == digest))

    def tokens(self) -> list[TokenRecord]:
        """Return all tokens, the last to expire first."""
        return self._records(TokenRecord, TOKENS, order=TOKENS.c.expires_unix_s.desc())

    def certificate(self, serial: str) -> CertificateRecord | None:
        """Return a certificate by its serial number, or None."""
        return _one(self._records(CertificateRecord, CERTIFICATES, CERTIFICATES.c.serial == serial))

    def certificates(self, device: str) -> list[CertificateRecord]:
        """Return a device's certificates, the last to end first."""
        of_device = CERTIFICATES.c.device == device
        return self._records(CertificateRecord, CERTIFICATES, of_device, order=CERTIFICATES.c.ends_unix_s.desc())

    def last_end_unix_s(self) -> float | None:
        """Return when the last certificate ends, or None if none was given."""
        with self._reading() as connection:
            return connection.execute(select(func.max(CERTIFICATES.c.ends_unix_s))).scalar()

    def revoked_serials(self, unix_s: float) -> list[int]:
        """Return the serial numbers of revoked devices' certificates that have not ended."""
        query = select(CERTIFICATES.c.serial).join(DEVICES, DEVICES.c.device == CERTIFICATES.c.device)
        query = query.where(DEVICES.c.status == "revoked", CERTIFICATES.c.ends_unix_s > unix_s)
        with self._reading() as connection:
            return [int(serial, 16) for (serial,) in connection.execute(query.order_by(CERTIFICATES.c.serial))]

    def to_shut_out(self) -> list[str]:
        """Return the revoked devices of which the broker may not know yet."""
        query = select(DEVICES.c.device).where(DEVICES.c.status == "revoked", DEVICES.c.is_shut_out.is_(False))
        with self._reading() as connection:
            return [device for (device,) in connection.execute(query)]

    def add_tokens(self, tokens: Sequence[TokenRecord]) -> None:
        """Keep new tokens."""
        with self._writing() as connection:
            connection.execute(TOKENS.insert(), [_row(one) for one in tokens])

    def use_token(self, token: TokenRecord, device: DeviceRecord, certificate: CertificateRecord | None) -> None:
        """Keep that ``device`` came with ``token`` and, if it was enrolled, its certificate; an approval stays.

        A second key is kept where there was none; one that is there stays.
        """
        with self._writing() as connection:
            connection.execute(insert_into(connection, DEVICES).values(_row(device)).on_conflict_do_nothing())
            if device.second_key is not None:
                first = (DEVICES.c.device == device.device) & DEVICES.c.second_key.is_(None)
                connection.execute(DEVICES.update().where(first).values(second_key=device.second_key))
            if device.status == "approved":
                pending = (DEVICES.c.device == device.device) & (DEVICES.c.status == "pending")
                connection.execute(DEVICES.update().where(pending).values(status="approved"))
            if certificate is not None:
                connection.execute(CERTIFICATES.insert(), _row(certificate))
            connection.execute(TOKENS.update().where(TOKENS.c.digest == token.digest).values(_row(token)))

    def add_certificate(self, certificate: CertificateRecord) -> None:
        """Keep a renewed certificate."""
        with self._writing() as connection:
            connection.execute(CERTIFICATES.insert(), _row(certificate))

    def approve(self, device: str, unix_s: float) -> None:
        """Let a pending device in."""
        pending = (DEVICES.c.device == device) & (DEVICES.c.status == "pending")
        with self._writing() as connection:
            connection.execute(DEVICES.update().where(pending).values(status="approved", since_unix_s=unix_s))

    def revoke(self, device: str, unix_s: float) -> None:
        """Shut a device out for good; one that is in devices.toml alone gets a row for it."""
        new = DeviceRecord(device=device, verify_key=b"", status="revoked", since_unix_s=unix_s)
        change = {"status": "revoked", "since_unix_s": unix_s, "is_shut_out": False}
        with self._writing() as connection:
            revoked = insert_into(connection, DEVICES).values(_row(new))
            connection.execute(revoked.on_conflict_do_update(index_elements=["device"], set_=change))

    def shut_out(self, device: str) -> None:
        """Keep that the broker knows of the revocation."""
        with self._writing() as connection:
            connection.execute(DEVICES.update().where(DEVICES.c.device == device).values(is_shut_out=True))

    def _records(self, cls: type[R], table: Table, *where: ColumnElement[bool], order: Any = None) -> list[R]:  # noqa: ANN401 - SQLAlchemy's expressions
        query = select(*(table.c[name] for name in cls.__dataclass_fields__)).where(*where).order_by(order)
        with self._reading() as connection:
            return [cls(**row) for row in connection.execute(query).mappings()]


def _row(record: DeviceRecord | TokenRecord | CertificateRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _one(found: list[R]) -> R | None:
    return found[0] if found else None
