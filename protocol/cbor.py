"""CBOR (RFC 8949) as this protocol uses it: a small, bounded, deterministic subset.

Laws: the length is checked before a byte is decoded; no tags, no indefinite lengths, no duplicate or non-text keys, at
most ``MAX_DEPTH`` levels; encoding is deterministic (RFC 8949 section 4.2), so equal values are equal bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import cbor2

from protocol.errors import MalformedMessageError, MessageTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_DEPTH", "dumps", "loads"]

MAX_DEPTH = 8  # our deepest message has four levels; the rest is room to grow

_KNOWN_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799)


class _TagRefusedError(ValueError):
    pass


def _refuse_tag(*_: object) -> NoReturn:
    raise _TagRefusedError("tags are not used in this protocol")


# cbor2 decodes these by itself (dates, big numbers, regular expressions...), each a way to make a receiver work.
_REFUSE: dict[int, Callable[..., Any]] = dict.fromkeys(_KNOWN_TAGS, _refuse_tag)


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
    try:
        value = cbor2.loads(
            data,
            tag_hook=_refuse_tag,
            semantic_decoders=_REFUSE,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError, RecursionError, EOFError) as error:
        raise MalformedMessageError(f"not a CBOR message of this protocol: {type(error).__name__}") from error
    if dumps(value) != data:
        raise MalformedMessageError("CBOR is not in deterministic encoding, or bytes follow it")
    return value
