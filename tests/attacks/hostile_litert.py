"""LiteRT files of a hostile bundle maker: rightly hashed, with other operators, or with offsets that lead outside.

``python -m tests.attacks.hostile_litert`` puts each into a bundle and prints what the reader says.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.tflite_operators import REFUSED_BUILTINS
from protocol.tflite_reader import MAX_STEPS
from tests.attacks.hostile_bundles import refusal_of_litert
from tests.protocol.tflite_bytes import GOOD, flatbuffer, model, operator_code

if TYPE_CHECKING:
    from collections.abc import Iterator


def attacks() -> Iterator[tuple[str, str, bytes]]:
    """Yield each attack: its name, a part of the refusal, and the file."""
    for code, name in REFUSED_BUILTINS.items():
        yield f"the operator {name}", f"operator {name} is not", model(codes=[operator_code(code)])
    yield "an operator of tomorrow", "operator 5000 is not", model(codes=[operator_code(5000)])
    yield "a negative operator", "operator 127 is not", model(codes=[{0: b"\x7f", 3: struct.pack("<i", -1)}])
    yield "WHILE by its old field alone", "operator WHILE is not", model(codes=[{0: bytes([119])}])
    yield "ADD in the old field, WHILE in the new", "WHILE is not", model(codes=[{0: b"\0", 3: struct.pack("<i", 119)}])
    yield "a custom name at ADD", "custom name", model(codes=[operator_code(0, f1=[b"F", b"l", b"e", b"x"])])
    yield "an operator that is not declared", "are declared", model(used=(1,))
    yield "a tensor in no buffer", "a tensor in buffer 7", model(tensors=(7,))
    yield (
        "a buffer behind the end",
        "a buffer of",
        model(buffers=[{1: struct.pack("<Q", 8), 2: struct.pack("<Q", 2**40)}]),
    )
    far = {1: struct.pack("<Q", 2**64 - 4), 2: struct.pack("<Q", 8)}
    yield "a buffer that wraps around", "a buffer of", model(buffers=[far])
    yield "an empty file", "empty file", b""
    yield "another identifier", "begins as", flatbuffer({}, identifier=b"TFL4")
    yield "a root behind the end", "an offset leads", b"\xff\xff\xff\x7fTFL3" + bytes(16)
    yield "a vtable before the file", "an offset leads", b"\x08\0\0\0TFL3" + struct.pack("<i", 2**30) + bytes(8)
    yield "a vtable of odd length", "a vtable of", b"\x08\0\0\0TFL3" + struct.pack("<iHH", -4, 7, 4)
    yield "a field outside of its table", "not inside of its table", _field_outside()
    yield "a vector behind the end", "not inside of the file", _long_vector()
    yield "every table in every place", "more fields", _bomb()
    for cut in (8, 20, len(GOOD) // 2, len(GOOD) - 1):
        yield f"{cut} of its bytes", "is taken", GOOD[:cut]


def _field_outside() -> bytes:
    vtable = struct.pack("<4H", 8, 4, 0, 2000)  # the operator codes are 2,000 bytes into a table of 4
    return b"\x10\0\0\0TFL3" + vtable + struct.pack("<i", 8)


def _long_vector() -> bytes:
    vtable = struct.pack("<4H", 8, 8, 0, 4)
    return b"\x10\0\0\0TFL3" + vtable + struct.pack("<iII", 8, 4, 2**31)


def _bomb() -> bytes:
    """Return a file in which one operator code is declared a million times: each entry of the vector leads to it."""
    n = MAX_STEPS // 4
    vtable = struct.pack("<4H", 8, 8, 0, 4)
    head = b"\x10\0\0\0TFL3" + vtable + struct.pack("<iII", 8, 4, n)  # the vector begins at byte 28
    entries = struct.pack(f"<{n}I", *(4 * (n - i) + 4 for i in range(n)))
    return head + entries + struct.pack("<HHi", 4, 4, 4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as there:
        for number, (attack, _, file) in enumerate(attacks()):
            print(f"{attack}: {refusal_of_litert(file, Path(there) / str(number))}")  # noqa: T201 - a script for people
