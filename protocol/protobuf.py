"""Reads the fields of a protocol-buffers message (the wire format of protobuf.dev, version 3) from hostile bytes.

Laws: nothing is copied and nothing is believed: a length beyond the message, a number of more than ten bytes, a group,
a field or a wire type that the caller did not name, or a second value of a single field is refused, so that no other
reader of the same bytes can see what this one did not. All messages of one ``Budget`` have a bounded number of fields
and of packed numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from protocol.errors import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["BYTES", "FIXED32", "VARINT", "Budget", "Shape", "fields", "varints"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES: Final = 10

Value: TypeAlias = int | memoryview


@dataclass(slots=True)
class Budget:
    """How many more fields and packed numbers may be read."""

    n_fields: int

    def take(self) -> None:
        """Count one.

        Raises:
            MalformedMessageError: it is one too many.
        """
        self.n_fields -= 1
        if self.n_fields < 0:
            raise MalformedMessageError("more fields than a graph of ours could have")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a message may hold: the wire types that each field number may have."""

    name: str
    single: Mapping[int, tuple[int, ...]]
    repeated: Mapping[int, tuple[int, ...]]


def fields(data: memoryview, shape: Shape, budget: Budget) -> Iterator[tuple[int, Value]]:
    """Yield each field of a message in order: its number, and its number or bytes.

    Raises:
        MalformedMessageError: a law is broken.
    """
    at, seen = 0, set()
    while at < len(data):
        budget.take()
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        allowed = shape.single.get(number) or shape.repeated.get(number)
        if allowed is None or wire not in allowed:
            raise MalformedMessageError(f"{shape.name}: field {number} of wire type {wire} is not taken")
        if number in seen and number in shape.single:
            raise MalformedMessageError(f"{shape.name}: field {number} comes twice")
        seen.add(number)
        value, at = _value(data, at, wire)
        yield number, value


def varints(value: Value, budget: Budget) -> list[int]:
    """Return the numbers of a repeated field: one, or packed ones.

    Raises:
        MalformedMessageError: the last one is cut off, or there are too many.
    """
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        budget.take()
        number, at = _varint(value, at)
        found.append(number)
    return found


def _value(data: memoryview, at: int, wire: int) -> tuple[Value, int]:
    if wire == VARINT:
        return _varint(data, at)
    if wire == BYTES:
        n_bytes, at = _varint(data, at)
    else:
        n_bytes = _FIXED_BYTES[wire]
    if n_bytes > len(data) - at:
        raise MalformedMessageError(f"a field of {n_bytes} bytes where {len(data) - at} are left")
    return data[at : at + n_bytes], at + n_bytes


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + i + 1
    raise MalformedMessageError("a number is cut off or too long")
