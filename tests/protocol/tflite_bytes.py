"""Writes small LiteRT files byte by byte, good and bad ones: no package of FlatBuffers makes the bad ones."""

from __future__ import annotations

import struct
from typing import TypeAlias

Node: TypeAlias = "dict[int, bytes | dict[int, object] | list[object]]"


def flatbuffer(root: Node, *, identifier: bytes = b"TFL3") -> bytes:
    """Return a file of a table: fields by number, each bytes in place, a table, or a vector of tables or bytes."""
    out = bytearray(8)
    out[4:8] = identifier
    waiting: list[tuple[int, object]] = [(0, root)]
    while waiting:
        patch, node = waiting.pop(0)
        at, references = (_table if isinstance(node, dict) else _vector)(out, node)  # type: ignore[operator]
        struct.pack_into("<I", out, patch, at - patch)
        waiting += references
    return bytes(out)


def _table(out: bytearray, node: dict[int, object]) -> tuple[int, list[tuple[int, object]]]:
    n_fields = max(node, default=-1) + 1
    vtable, at = len(out), len(out) + 4 + 2 * n_fields
    offsets, body, references = [0] * n_fields, bytearray(4), []
    for number, value in sorted(node.items()):
        offsets[number] = len(body)
        if isinstance(value, bytes):
            body += value
        else:
            references.append((at + len(body), value))
            body += bytes(4)
    out += struct.pack(f"<{2 + n_fields}H", 4 + 2 * n_fields, len(body), *offsets)
    struct.pack_into("<i", body, 0, at - vtable)
    out += body
    return at, references


def _vector(out: bytearray, node: list[object]) -> tuple[int, list[tuple[int, object]]]:
    at = len(out)
    out += struct.pack("<I", len(node))
    references = []
    for item in node:
        if isinstance(item, bytes):
            out += item
        else:
            references.append((len(out), item))
            out += bytes(4)
    return at, references


def operator_code(code: int, **fields: object) -> dict[int, object]:
    """Return an OperatorCode as newer files have it: the number in both of its fields."""
    made: dict[int, object] = {0: bytes([min(code, 127)]), 3: struct.pack("<i", code)}
    return made | {int(name[1:]): value for name, value in fields.items()}


def model(
    *,
    codes: list[object] | None = None,
    used: tuple[int, ...] = (0,),
    tensors: tuple[int, ...] = (0,),
    buffers: list[object] | None = None,
) -> bytes:
    """Return a file of one graph: its operators by declared kind, its tensors by buffer."""
    graph = {
        0: [{2: struct.pack("<I", one)} for one in tensors],
        3: [{0: struct.pack("<I", one)} for one in used],
    }
    return flatbuffer(
        {
            0: struct.pack("<I", 3),
            1: [operator_code(0)] if codes is None else codes,
            2: [graph],
            4: [{}] if buffers is None else buffers,
        }
    )


GOOD = model()
