"""Bytes that a stranger may send instead of a message: oversize, bombs, lies about lengths, tags, other encodings.

``python -m tests.attacks.hostile_messages`` sends each to the receiver and prints what becomes of it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import cbor2

from protocol.errors import RemoteProtocolError
from protocol.messages import unpack_envelope
from tests.protocol import samples

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 1 << 20


def attacks() -> Iterator[tuple[str, bytes]]:
    """Yield each attack by name."""
    good = samples.golden("envelope-join")
    yield "oversize", b"\x00" * (MAX_BYTES + 1)
    yield "nothing", b""
    for major, name in ((2, "bytes"), (3, "text"), (4, "array"), (5, "map")):
        for n_bytes, head, length in ((4, 26, 2**32 - 1), (8, 27, 2**63), (8, 27, 2**64 - 1)):
            argument = length.to_bytes(n_bytes, "big")
            yield f"{name} that claims {length} items", bytes([major << 5 | head]) + argument
    yield "deep arrays", b"\x81" * (MAX_BYTES - 1) + b"\x00"
    yield "deep maps", b"\xa1\x61a" * 300_000 + b"\x00"
    yield "deep tags", b"\xc1" * (MAX_BYTES - 1) + b"\x00"
    yield "a million empty arrays", b"\x9a" + struct.pack(">I", MAX_BYTES - 5) + b"\x80" * (MAX_BYTES - 5)
    yield "100,000 keys", cbor2.dumps({f"{i:06}": 0 for i in range(100_000)})
    yield "equal keys", b"\xa2\x61a\x00\x61a\x00"
    yield "an endless string", b"\x5f" + b"\x41a" * 1000 + b"\xff"
    yield "an endless array", b"\x9f" + b"\x00" * 1000
    yield "a regular expression", cbor2.dumps(cbor2.CBORTag(35, "(a+)+$"))
    yield "a big number", cbor2.dumps(1 << 4_000_000)
    yield "a decimal with a huge exponent", cbor2.dumps(cbor2.CBORTag(4, [2**62, 1]))
    yield "a rational", cbor2.dumps(cbor2.CBORTag(30, [1, 2]))
    yield "a shared reference to itself", b"\xd8\x1c\x81\xd8\x1d\x00"
    yield "a date", cbor2.dumps(cbor2.CBORTag(0, "9999-12-31T23:59:59Z"))
    yield "a length in a longer form", good.replace(b"\x61v\x01", b"\x61v\x18\x01", 1)
    yield "a byte too much", good + b"\x00"
    yield "text for bytes", cbor2.dumps(cbor2.loads(good) | {"body": "x"}, canonical=True)
    yield "another version", cbor2.dumps(cbor2.loads(good) | {"v": 2}, canonical=True)
    yield "an unknown kind", cbor2.dumps(cbor2.loads(good) | {"kind": "exec"}, canonical=True)
    yield "a sender that is a topic", cbor2.dumps(cbor2.loads(good) | {"sender": "a/../b"}, canonical=True)
    yield "a signature too short", cbor2.dumps(cbor2.loads(good) | {"signature": bytes(63)}, canonical=True)
    for length in range(0, len(good), 17):
        yield f"the first {length} bytes", good[:length]


def reason_of(data: bytes) -> str:
    """Return the reason for which the receiver refuses ``data``, or that it took it."""
    try:
        unpack_envelope(data, max_bytes=MAX_BYTES)
    except RemoteProtocolError as error:
        return error.reason
    return "taken"


if __name__ == "__main__":
    for name, data in attacks():
        print(f"{name}: {reason_of(data)}")  # noqa: T201 - a script for people
