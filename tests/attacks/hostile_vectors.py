"""Payloads that a registered but hostile device may seal instead of a delta.

``python -m tests.attacks.hostile_vectors`` hands each to the decoder and prints what becomes of it.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from protocol import cbor, codec
from protocol.errors import UpdateError

if TYPE_CHECKING:
    from collections.abc import Iterator

N_VALUES = 16
BLOCK = 8


def payload(**changes: object) -> bytes:
    """Return a payload of ``N_VALUES`` zeros with ``changes``; None leaves a key out."""
    whole: dict[str, object] = {
        "encoding": "int8-block",
        "n_values": N_VALUES,
        "block": BLOCK,
        "scales": struct.pack("<2f", 1, 1),
        "values": bytes(N_VALUES),
    }
    return cbor.dumps({key: value for key, value in (whole | changes).items() if value is not None})


def floats(value: float, *, encoding: str = "float32") -> bytes:
    """Return a payload whose last value is ``value``."""
    code = {"float32": "f", "float16": "e"}[encoding]
    values = struct.pack(f"<{N_VALUES}{code}", *[0.0] * (N_VALUES - 1), value)
    return payload(encoding=encoding, values=values, block=None, scales=None)


def attacks() -> Iterator[tuple[str, str, bytes]]:
    """Yield name, expected reason and payload of each attack."""
    for value in (math.nan, math.inf, -math.inf):
        for encoding in ("float32", "float16"):
            yield f"{value} as {encoding}", "not-finite", floats(value, encoding=encoding)
        yield f"a scale of {value}", "not-finite", payload(scales=struct.pack("<2f", 1, value))
    yield "a scale that overflows", "not-finite", payload(scales=struct.pack("<2f", 1, 3e38), values=b"\x7f" * N_VALUES)
    yield "a negative scale", "bad-encoding", payload(scales=struct.pack("<2f", 1, -1))
    yield "a level of -128", "bad-encoding", payload(values=b"\x80" * N_VALUES)
    yield "one value more", "wrong-shape", payload(n_values=N_VALUES + 1, values=bytes(N_VALUES + 1))
    yield "one value fewer", "wrong-shape", payload(n_values=N_VALUES - 1, values=bytes(N_VALUES - 1))
    yield "a claim of many values", "wrong-shape", payload(n_values=500_000_000)
    yield "a claim of too many values", "bad-encoding", payload(n_values=2**62)
    yield "fewer bytes than claimed", "bad-encoding", payload(values=bytes(N_VALUES - 1))
    yield "a huge block", "bad-encoding", payload(block=2**40)
    yield "blocks of nothing", "bad-encoding", payload(block=0)
    yield "an unknown encoding", "bad-encoding", payload(encoding="pickle")
    yield "more bytes than any encoding takes", "oversize", payload(values=bytes(100_000))
    whole = payload()
    for length in range(0, len(whole), 7):
        yield f"the first {length} bytes", "bad-encoding", whole[:length]


def reason_of(data: bytes) -> str:
    """Return the reason for which the decoder refuses ``data``, or that it took it."""
    try:
        codec.decode(data, n_values=N_VALUES)
    except UpdateError as error:
        return error.reason
    return "taken"


if __name__ == "__main__":
    for name, _, data in attacks():
        print(f"{name}: {reason_of(data)}")  # noqa: T201 - a script for people
