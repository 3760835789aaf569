"""CBOR (RFC 8949) as this protocol uses it: a small, bounded, deterministic subset.

Laws: the length is checked before a byte is looked at, and every head before a value is built, so that a message makes
at most ``MAX_ITEMS`` objects whatever it claims; no tags, no indefinite lengths, no simple values but false, true and
null, no duplicate keys, at most ``MAX_DEPTH`` levels; encoding is deterministic (RFC 8949 section 4.2), so equal values
are equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cbor2

from protocol.errors import MalformedMessageError, MessageTooLargeError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "dumps", "loads"]

MAX_DEPTH: Final = 8  # our deepest message has four levels; the rest is room to grow
MAX_ITEMS: Final = 1024  # our largest message has 60; an empty array takes one byte here and 56 in memory

# A byte string from here on is copied once, out of the message: decoding it and encoding it again to compare, as is
# done with all the rest, would be three trips through memory, and there is nothing in it to compare. At least 256 and
# at most 2^16, since its head is one of two kinds.
_LONG_BYTES: Final = 1 << 12
_EMPTY: Final = b"\x40"

# Major types and additional information of RFC 8949, section 3.
_BYTE_STRING: Final = 2
_STRINGS: Final = (_BYTE_STRING, 3)
_TAG: Final = 6
_SIMPLE: Final = 7
_PLAIN_SIMPLE: Final = (20, 21, 22, 25, 26, 27)  # false, true, null and the three floats
_ARGUMENT_BYTES: Final = {24: 1, 25: 2, 26: 4, 27: 8}


def dumps(value: object) -> bytes:
    """Return the deterministic encoding of plain values."""
    return cbor2.dumps(value, canonical=True)


def loads(data: bytes, *, max_bytes: int) -> Any:  # noqa: ANN401 - whatever a stranger sent
    """Return the plain values in ``data``.

    Raises:
        MessageTooLargeError: longer than ``max_bytes`` (the peer's fault).
        MalformedMessageError: not in the subset above, or bytes follow the value (the peer's fault).
    """
    if len(data) > max_bytes:
        raise MessageTooLargeError(
            f"message of {len(data)} bytes, at most {max_bytes} are taken", n_bytes=len(data), max_bytes=max_bytes
        )
    long = _check_heads(data)
    short = _without(data, long) if long else data
    try:
        value = cbor2.loads(
            short, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False, strict_hashable_types=True
        )
        is_deterministic = dumps(value) == short
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError, RecursionError, EOFError) as error:
        raise MalformedMessageError(f"not a CBOR message of this protocol: {type(error).__name__}") from error
    if not is_deterministic:
        raise MalformedMessageError("CBOR is not in deterministic encoding, or bytes follow it")
    return _Filling(data, long).filled(value) if long else value


@dataclass(frozen=True, slots=True)
class _Long:
    """A byte string of at least ``_LONG_BYTES``: its place among all, and where its head and content lie."""

    place: int
    head: int
    first: int
    end: int


def _without(data: bytes, long: Sequence[_Long]) -> bytes:
    """Return ``data`` with an empty byte string in the place of each long one."""
    parts, at = [], 0
    for one in long:
        parts.append(data[at : one.head])
        at = one.end
    return _EMPTY.join([*parts, data[at:]])


class _Filling:
    """Puts the long byte strings back: values are met in the order of the data."""

    def __init__(self, data: bytes, long: Sequence[_Long]) -> None:
        self._data, self._long = data, {one.place: one for one in long}
        self._n_met = 0

    def filled(self, value: Any) -> Any:  # noqa: ANN401 - plain values
        match value:
            case bytes():
                one = self._long.get(self._n_met)
                self._n_met += 1
                return value if one is None else self._data[one.first : one.end]
            case dict():
                return {self._key(key): self.filled(item) for key, item in value.items()}
            case list():
                return [self.filled(item) for item in value]
            case _:
                return value

    def _key(self, key: object) -> object:
        if isinstance(key, bytes):  # the only keys beside text
            if self._n_met in self._long:
                raise MalformedMessageError(f"a key of at least {_LONG_BYTES} bytes")
            self._n_met += 1
        return key


def _check_heads(data: bytes) -> list[_Long]:
    """Walk over the heads of all items, building nothing; return the long byte strings.

    Nesting needs no attention, since heads lie in one row.
    """
    at = n_items = n_byte_strings = 0
    long = []
    while at < len(data):
        n_items += 1
        if n_items > MAX_ITEMS:
            raise MalformedMessageError(f"more than {MAX_ITEMS} CBOR items")
        major, low = data[at] >> 5, data[at] & 0x1F
        if major == _TAG or low > max(_ARGUMENT_BYTES) or (major == _SIMPLE and low not in _PLAIN_SIMPLE):
            raise MalformedMessageError(
                "a CBOR tag, indefinite length or simple value, which this protocol doesn't use"
            )
        n_argument = _ARGUMENT_BYTES.get(low, 0)
        argument = int.from_bytes(data[at + 1 : at + 1 + n_argument]) if n_argument else low
        first = at + 1 + n_argument
        end = first + (argument if major in _STRINGS else 0)
        if major == _BYTE_STRING:
            # One whose head is longer than it needs stays where it is, for the comparison to find.
            if argument >= _LONG_BYTES and n_argument == _ARGUMENT_BYTES[25 if argument < 1 << 16 else 26]:
                long.append(_Long(n_byte_strings, at, first, end))
            n_byte_strings += 1
        at = end
    if at != len(data):
        raise MalformedMessageError("the CBOR item ends before its stated length")
    return long
