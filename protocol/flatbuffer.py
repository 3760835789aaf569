"""Reads FlatBuffers (their internals document, 2024) where every offset is a stranger's: no package, no schema.

Laws: nothing outside of the buffer is read; every table, vector and text that is looked at lies inside of it; at most
``max_steps`` numbers are read. Offsets only point forward except a table's to its vtable, so no walk is endless. No
memory of its own.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Protocol

from protocol.errors import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Buffer", "FlatBuffer", "Table"]


class Buffer(Protocol):
    """Bytes, or a mapped file."""

    def __len__(self) -> int:
        """Return how many bytes."""

    def __getitem__(self, cut: slice, /) -> bytes:
        """Return some of them."""


_U16, _I32, _U32, _U64 = (struct.Struct(one) for one in ("<H", "<i", "<I", "<Q"))
_VTABLE_HEAD: Final = 4  # its own length and the table's


class FlatBuffer:
    """A buffer, its identifier checked, and how many steps may still be taken in it."""

    def __init__(self, data: Buffer, *, identifier: bytes, max_steps: int) -> None:
        """Look at the first eight bytes.

        Raises:
            MalformedMessageError: another identifier, or fewer bytes.
        """
        self._data, self._left = data, max_steps
        if data[4:8] != identifier:
            raise MalformedMessageError(f"no file that begins as {identifier.decode('ascii')} does")

    def __len__(self) -> int:
        return len(self._data)

    def root(self) -> Table:
        """Return the root table."""
        return Table(self, self.number(0, _U32))

    def number(self, at: int, kind: struct.Struct) -> int:
        """Return the number at a position."""
        self._left -= 1
        if self._left < 0:
            raise MalformedMessageError("more fields than are taken")
        if not 0 <= at <= len(self._data) - kind.size:
            raise MalformedMessageError(f"an offset leads to byte {at} of {len(self._data)}")
        (value,) = kind.unpack(self._data[at : at + kind.size])
        return int(value)


class Table:
    """One table, by the numbers of its fields."""

    __slots__ = ("_at", "_buffer", "_fields", "_n_bytes")

    def __init__(self, buffer: FlatBuffer, at: int) -> None:
        """Find the table's vtable.

        Raises:
            MalformedMessageError: one of the two is not inside of the buffer.
        """
        self._buffer, self._at = buffer, at
        vtable = at - buffer.number(at, _I32)
        size, self._n_bytes = buffer.number(vtable, _U16), buffer.number(vtable + 2, _U16)
        if size < _VTABLE_HEAD or size % 2:
            raise MalformedMessageError(f"a vtable of {size} bytes")
        self._fields = (vtable + _VTABLE_HEAD, (size - _VTABLE_HEAD) // 2)

    def _field(self, number: int, n_bytes: int) -> int | None:
        """Return where a field lies; None if it has its default."""
        first, count = self._fields
        offset = self._buffer.number(first + 2 * number, _U16) if number < count else 0
        if not offset:
            return None
        if offset + n_bytes > self._n_bytes:
            raise MalformedMessageError(f"field {number} is not inside of its table")
        return self._at + offset

    def byte(self, number: int) -> int:
        """Return an unsigned field of one byte, 0 by default."""
        at = self._field(number, 1)
        return 0 if at is None else self._buffer.number(at, struct.Struct("<B"))

    def i32(self, number: int) -> int:
        """Return a signed field of four bytes, 0 by default."""
        at = self._field(number, 4)
        return 0 if at is None else self._buffer.number(at, _I32)

    def u32(self, number: int) -> int:
        """Return an unsigned field of four bytes, 0 by default."""
        at = self._field(number, 4)
        return 0 if at is None else self._buffer.number(at, _U32)

    def u64(self, number: int) -> int:
        """Return an unsigned field of eight bytes, 0 by default."""
        at = self._field(number, 8)
        return 0 if at is None else self._buffer.number(at, _U64)

    def vector(self, number: int, *, item_bytes: int) -> tuple[int, int]:
        """Return where a vector's items begin and how many there are; (0, 0) by default.

        Raises:
            MalformedMessageError: it ends outside of the buffer.
        """
        at = self._field(number, 4)
        if at is None:
            return 0, 0
        start = at + self._buffer.number(at, _U32)
        count = self._buffer.number(start, _U32)
        if start + 4 + count * item_bytes > len(self._buffer):
            raise MalformedMessageError(f"a vector of {count} items of {item_bytes} bytes is not inside of the file")
        return start + 4, count

    def tables(self, number: int) -> Iterator[Table]:
        """Yield the tables of a vector."""
        first, count = self.vector(number, item_bytes=4)
        for at in range(first, first + 4 * count, 4):
            yield Table(self._buffer, at + self._buffer.number(at, _U32))
