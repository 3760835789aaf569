"""Graphs of a hostile bundle maker: rightly hashed, and made to reach another file, another operator or much memory.

``python -m tests.attacks.hostile_graphs`` puts each into a bundle and prints what the reader says.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.onnx_reader import MAX_FIELDS
from tests.attacks import hostile_bundles
from tests.protocol.onnx_bytes import attribute, external, field, graph, model, node, tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD_NODE = node("Identity")
OPERATORS = (
    ("If", ""),
    ("Loop", ""),
    ("Scan", ""),
    ("SequenceAt", ""),
    ("SequenceMap", ""),
    ("OptionalGetElement", ""),
    ("RandomNormal", ""),
    ("RandomUniformLike", ""),
    ("Bernoulli", ""),
    ("StringConcat", ""),
    ("StringSplit", ""),
    ("RegexFullMatch", ""),
    ("ImageDecoder", ""),
    ("LabelEncoder", "ai.onnx.ml"),
    ("Add", "com.microsoft"),
    ("MatMulNBits", "com.microsoft"),
    ("TanhGrad", "com.microsoft"),  # onnxruntime-training's, in a portable graph
    ("PyOp", "ai.onnx.contrib"),
    ("ReadFile", "org.example"),
    ("", ""),
)


def attacks() -> Iterator[tuple[str, str, bytes]]:
    """Yield each attack: its name, a part of the refusal, and the graph; the weights file has 64 bytes."""
    for operator, domain in OPERATORS:
        yield f"the operator {domain}.{operator}", "is not allowed", model(graph(node(operator, domain=domain)))
    yield "an operator hidden in a second graph", "comes twice", model(graph(GOOD_NODE), extra=field(7, b""))
    yield "an operator's second name", "comes twice", model(graph(node("Add") + field(4, b"Loop")))
    yield "a function", "field 25", model(graph(GOOD_NODE), extra=field(25, b""))
    yield "training information", "field 20", model(graph(GOOD_NODE), extra=field(20, b""))
    yield "a subgraph", "field 6", model(graph(node("Add", extra=attribute(g=graph(GOOD_NODE)))))
    yield "a sparse tensor", "field 15", model(graph(GOOD_NODE, extra=field(15, b"")))
    yield "an operator's overload", "field 8", model(graph(node("Add", extra=field(8, b"x"))))
    for name, place in PLACES.items():
        yield f"weights at {name}", "not in weights.bin", _weights(external(location=place, offset=0, length=64))
    yield from _lengths()
    yield from _sizes()
    yield "an empty file", "no graph", b""
    yield "no file of ONNX", "is not taken", b"MZ\x90\x00 not a graph at all"
    yield "a length beyond the end", "bytes where", field(1, 10) + b"\x3a\xff\xff\xff\xff\x07"
    yield "an endless number", "too long", b"\x08" + b"\xff" * 64
    yield "a group", "wire type 3", b"\x3b" * 100
    packed = field(1, b"\x01" * MAX_FIELDS) + field(2, 1)
    yield "a shape of half a million packed sizes", "more fields", model(graph(GOOD_NODE, tensors=(packed,)))
    yield "more fields than there may be", "more fields", model(graph(extra=b"\x5a\x00" * MAX_FIELDS))


PLACES = {
    "an absolute path": "/etc/passwd",
    "a path outside": "../weights.bin",
    "a path inside": "./weights.bin",
    "another file of the bundle": "adapter.f32",
    "no path": "",
    "a mark of memory": "*/_ORT_MEM_ADDR_/*",
    "a path that ends": "weights.bin\x00/etc/passwd",
}


def _lengths() -> Iterator[tuple[str, str, bytes]]:
    where = {"location": "weights.bin", "offset": 0, "length": 64}
    beyond, number, more = "beyond the end", "impossible number", "nothing else"
    yield "weights beyond the end", beyond, _weights(external(**where | {"offset": 1}))
    yield "an offset of 2^63", beyond, _weights(external(**where | {"offset": 2**63}))
    yield "a negative offset", number, _weights(external(**where | {"offset": -1}))
    yield "an offset in hexadecimal", number, _weights(external(**where | {"offset": "0x0"}))
    yield "an endless offset", number, _weights(external(**where | {"offset": "9" * 4000}))
    yield "an offset in other digits", number, _weights(external(**where | {"offset": "٣"}))
    yield "no length", more, _weights(external(location="weights.bin", offset=0))
    yield "an unknown key", more, _weights(external(**where, basepath="/"))
    yield "two places", "two values", _weights(external(**where) + field(13, field(1, b"location") + field(2, b"/x")))
    yield "a length of its own", "its shape says", _weights(external(**where | {"length": 8}))
    yield "values here and there", "two places", _weights(external(**where) + field(9, bytes(64)))
    inside = attribute(t=tensor((16,), external(location="/etc/passwd", offset=0, length=64)))
    yield "a constant elsewhere", "not in weights.bin", model(graph(node("Constant", extra=inside)))


def _sizes() -> Iterator[tuple[str, str, bytes]]:
    where = external(location="weights.bin", offset=0, length=64)
    yield "a tensor of 2^80 bytes outside", "its shape says", _weights(where, dims=(2**39, 2**39))
    yield "a size beyond 2^40", "impossible shape", _weights(where, dims=(2**41,))
    yield "a negative size", "impossible shape", _weights(where, dims=(2**64 - 1,))
    yield "1,000 dimensions", "impossible shape", _weights(where, dims=(1,) * 1000)
    yield "a tensor of 2^40 values in four bytes", "its shape says", _weights(field(9, bytes(4)), dims=(2**40,))
    yield "a tensor of 2^40 values in none", "fewer values", _weights(b"", dims=(2**40,))
    yield "a tensor of 1,000 values, one there", "fewer values", _weights(field(7, 1), dims=(1000,), data_type=7)
    yield "a tensor of strings", "type 8", _weights(b"", dims=(1,), data_type=8)
    yield "a tensor's strings", "field 6", _weights(field(6, b"x"), dims=(1,))
    yield "a tensor of no type", "type 0", _weights(field(9, bytes(4)), dims=(1,), data_type=0)


def _weights(rest: bytes, *, dims: tuple[int, ...] = (16,), data_type: int = 1) -> bytes:
    return model(graph(GOOD_NODE, tensors=(tensor(dims, rest, data_type=data_type),)))


def good() -> bytes:
    """Return a graph that is taken: what the attacks vary."""
    constant = node("Constant", extra=attribute(t=tensor((2,), field(9, bytes(8)))))
    where = external(location="weights.bin", offset=0, length=64)
    return model(
        graph(GOOD_NODE, constant, tensors=(tensor((16,), where), tensor((3,), field(7, b"\x01\x02\x03"), data_type=7)))
    )


if __name__ == "__main__":
    for name, _, data in attacks():
        with tempfile.TemporaryDirectory() as there:
            print(f"{name}: {hostile_bundles.refusal_of_graph(data, Path(there) / 'bundle')}")  # noqa: T201 - a script for people
