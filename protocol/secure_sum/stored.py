"""How the server's state lies in storage: one CBOR map, with records for what would be too many items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import MalformedMessageError
from protocol.fields import Length
from protocol.secure_sum.messages import ServerStep, SumPlan  # noqa: TC001 - structure() reads the types

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["STORED_BYTES", "Stored", "join_records", "split_records"]

STORED_BYTES: Final = 8 * MAX_MESSAGE_BYTES  # our own bytes: the sum, and at most 88 kB in transit for each device
_Blob = Annotated[bytes, Length(0, STORED_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The fields of ``SumServer``, as bytes."""

    plan: SumPlan
    step: ServerStep
    abort_reason: str
    adverts: _Blob
    roster: _Blob
    sealed: _Blob
    commitments: _Blob
    inputs: _Blob
    total: _Blob
    consents: _Blob
    opened: _Blob


def join_records(records: Mapping[str, bytes] | Mapping[int, bytes]) -> bytes:
    """Return records as one string of bytes: for each the two lengths, the key, the value."""
    parts = []
    for key, value in records.items():
        name = str(key).encode()
        parts += [len(name).to_bytes(4), len(value).to_bytes(4), name, value]
    return b"".join(parts)


def split_records(data: bytes) -> dict[str, bytes]:
    """Return the records again, in their order.

    Raises:
        MalformedMessageError: they end before their stated lengths (the disk's fault).
    """
    records, at = {}, 0
    while at < len(data):
        n_key, n_value = int.from_bytes(data[at : at + 4]), int.from_bytes(data[at + 4 : at + 8])
        at += 8
        records[data[at : at + n_key].decode()] = data[at + n_key : at + n_key + n_value]
        at += n_key + n_value
    if at != len(data):
        raise MalformedMessageError("a stored record ends before its stated length")
    return records
