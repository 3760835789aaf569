"""CBOR (RFC 8949) as this protocol uses it: a small, bounded, deterministic subset.

Laws: the length is checked before a byte is looked at, and every head before a value is built, so that a message makes
at most ``MAX_ITEMS`` objects whatever it claims; no tags, no indefinite lengths, no simple values but false, true and
null, no duplicate keys, at most ``MAX_DEPTH`` levels; encoding is deterministic (RFC 8949 section 4.2), so equal values
are equal bytes.
"""

from __future__ import annotations

from typing import Any, Final, cast

import cbor2

from protocol.errors import MalformedMessageError, MessageTooLargeError

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "dumps", "loads"]

MAX_DEPTH: Final = 8  # our deepest message has four levels; the rest is room to grow
MAX_ITEMS: Final = 1024  # our largest message has 60; an empty array takes one byte here and 56 in memory

_LONG_BYTES: Final = 1 << 16  # from here on a copy costs more than calls of Python's

# Major types and additional information of RFC 8949, section 3.
_STRINGS: Final = (2, 3)
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
    _check_heads(data)
    try:
        value = cbor2.loads(
            data, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False, strict_hashable_types=True
        )
        is_deterministic = _is_encoding_of(value, data)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError, RecursionError, EOFError) as error:
        raise MalformedMessageError(f"not a CBOR message of this protocol: {type(error).__name__}") from error
    if not is_deterministic:
        raise MalformedMessageError("CBOR is not in deterministic encoding, or bytes follow it")
    return value


def _is_encoding_of(value: object, data: bytes) -> bool:
    """Return whether ``data`` is the deterministic encoding of ``value``; a long one is not held a second time."""
    if len(data) < _LONG_BYTES:
        return dumps(value) == data
    compared = _Compared(data)
    cbor2.CBOREncoder(cast("Any", compared), canonical=True).encode(value)
    return compared.is_same and compared.at == len(data)


class _Compared:
    """A file that holds what is written to it against ``data``."""

    def __init__(self, data: bytes) -> None:
        """Begin at the first byte."""
        self._data, self.at, self.is_same = data, 0, True

    def writable(self) -> bool:
        """Return True, as the encoder asks."""
        return True

    def write(self, part: Any) -> int:  # noqa: ANN401 - what a file takes
        """Look at the next bytes."""
        self.is_same = self.is_same and self._data.startswith(part, self.at)
        self.at += len(part)
        return len(part)


def _check_heads(data: bytes) -> None:
    """Walk over the heads of all items, building nothing; nesting needs no attention, since heads lie in one row."""
    at = n_items = 0
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
        at += 1 + n_argument + (argument if major in _STRINGS else 0)
    if at != len(data):
        raise MalformedMessageError("the CBOR item ends before its stated length")
