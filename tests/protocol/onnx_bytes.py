"""ONNX files as bytes, written field by field: what the reader's tests and the attacks vary. No onnx package."""

from __future__ import annotations

__all__ = ["GRAPH", "attribute", "external", "field", "graph", "model", "node", "tensor"]


def field(number: int, value: int | bytes) -> bytes:
    """Return one field of a message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def node(operator: str, *, domain: str = "", extra: bytes = b"") -> bytes:
    """Return a node of one input and one output."""
    return field(1, b"x") + field(2, b"y") + field(4, operator.encode()) + field(7, domain.encode()) + extra


def attribute(**values: bytes) -> bytes:
    """Return an attribute field of a node: ``t`` a tensor, ``g`` a graph, ``s`` a text."""
    numbers = {"s": 4, "t": 5, "g": 6}
    return field(5, field(1, b"a") + b"".join(field(numbers[name], value) for name, value in values.items()))


def tensor(dims: tuple[int, ...], rest: bytes = b"", *, data_type: int = 1) -> bytes:
    """Return a tensor; ``rest`` holds its values."""
    return b"".join(field(1, size) for size in dims) + field(2, data_type) + field(8, b"w") + rest


def external(**entries: str | int) -> bytes:
    """Return the fields that say where a tensor lies."""
    pairs = (field(13, field(1, key.encode()) + field(2, str(value).encode())) for key, value in entries.items())
    return b"".join(pairs) + field(14, 1)


def graph(*nodes: bytes, tensors: tuple[bytes, ...] = (), extra: bytes = b"") -> bytes:
    """Return a graph."""
    return b"".join(field(1, one) for one in nodes) + b"".join(field(5, one) for one in tensors) + extra


def model(inside: bytes, *, extra: bytes = b"") -> bytes:
    """Return a file around a graph."""
    return field(1, 10) + field(7, inside) + field(8, field(2, 20)) + extra


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


GRAPH = model(graph(node("Identity")))  # read without complaint, and refused by a runtime: it has no inputs
