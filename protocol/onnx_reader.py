"""Reads an ONNX graph before any runtime does, and refuses what a bundle of ours never holds. No onnx package.

Laws: a graph is taken only if every operator is in the caller's list, nothing is nested (no functions, subgraphs,
sparse or string tensors), every tensor has exactly the bytes that its shape and type say, and what lies outside of the
file lies in the bundle's weights file, inside its length. The wire laws of ``protocol.protobuf`` hold for every message
on the way to these facts; the types of values and the annotations for people are skipped. Memory: the file and a few
numbers; time: at most ``MAX_FIELDS`` fields. What a graph computes is not judged: a trainer's memory limit is for that.

Source: onnx.proto of ONNX 1.19 (IR version 12), from which the field numbers are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from protocol.errors import BundleError, MalformedMessageError
from protocol.protobuf import BYTES, FIXED32, VARINT, Budget, Shape, fields, varints

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_FIELDS", "MAX_GRAPH_BYTES", "check_graph"]

MAX_GRAPH_BYTES: Final = 64 * 2**20  # MiniLM's training graph has 0.3 MB; the weights are not in it
MAX_FIELDS: Final = 500_000  # MiniLM's has 11,000
_MAX_DIMS: Final = 16
_MAX_SIZE: Final = 2**40
_MAX_NUMBER_CHARS: Final = 20
_MAX_TEXT_BYTES: Final = 4096
_EXTERNAL: Final = 1  # TensorProto.DataLocation

_TEXT, _NUMBER = (BYTES,), (VARINT,)
_MODEL: Final = Shape(
    name="model",
    single={1: _NUMBER, 2: _TEXT, 3: _TEXT, 4: _TEXT, 5: _NUMBER, 6: _TEXT, 7: _TEXT},
    repeated={8: _TEXT, 14: _TEXT},
)
_GRAPH: Final = Shape(
    name="graph",
    single={2: _TEXT, 10: _TEXT},
    repeated={1: _TEXT, 5: _TEXT, 11: _TEXT, 12: _TEXT, 13: _TEXT, 16: _TEXT},
)
_NODE: Final = Shape(
    name="node",
    single={3: _TEXT, 4: _TEXT, 6: _TEXT, 7: _TEXT},
    repeated={1: _TEXT, 2: _TEXT, 5: _TEXT, 9: _TEXT},
)
# No subgraphs (6, 11), tensors in lists (10), sparse tensors (22, 23), types (14, 15) or references of functions (21).
_ATTRIBUTE: Final = Shape(
    name="attribute",
    single={1: _TEXT, 2: (FIXED32,), 3: _NUMBER, 4: _TEXT, 5: _TEXT, 13: _TEXT, 20: _NUMBER},
    repeated={7: (FIXED32, BYTES), 8: (VARINT, BYTES), 9: _TEXT},
)
# No segments (3) and no strings (6).
_TENSOR: Final = Shape(
    name="tensor",
    single={2: _NUMBER, 8: _TEXT, 9: _TEXT, 12: _TEXT, 14: _NUMBER},
    repeated={
        1: (VARINT, BYTES),
        4: (FIXED32, BYTES),
        5: (VARINT, BYTES),
        7: (VARINT, BYTES),
        10: (1, BYTES),
        11: (VARINT, BYTES),
        13: _TEXT,
        16: _TEXT,
    },
)
_ENTRY: Final = Shape(name="external data", single={1: _TEXT, 2: _TEXT}, repeated={})
_TYPED: Final = (4, 5, 7, 10, 11)  # the fields that hold values one by one
# Bits of one value by TensorProto.DataType; the others (strings, complex numbers) are refused.
_BITS: Final = {
    1: 32,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    6: 32,
    7: 64,
    9: 8,
    10: 16,
    11: 64,
    12: 32,
    13: 64,
    16: 16,
    21: 4,
    22: 4,
}


def check_graph(data: bytes, *, operators: Mapping[str, frozenset[str]], weights_name: str, weights_bytes: int) -> None:
    """Take the graph, or refuse it.

    Args:
        data: the ONNX file.
        operators: the operators that are taken, by domain; the standard one is "".
        weights_name: the one file in which tensors may lie.
        weights_bytes: its length, 0 if there is none.

    Raises:
        BundleError: a law is broken; names the operator or the tensor (the bundle's maker's fault).
    """
    if len(data) > MAX_GRAPH_BYTES:
        raise BundleError(f"a graph of {len(data)} bytes, at most {MAX_GRAPH_BYTES} are taken")
    reader = _Reader(operators, weights_name, weights_bytes)
    try:
        reader.model(memoryview(data))
    except MalformedMessageError as error:
        raise BundleError(f"no graph that is taken: {error}") from error


@dataclass(slots=True)
class _Tensor:
    """What a tensor's message says of itself."""

    name: str = ""
    data_type: int = 0
    dims: list[int] = field(default_factory=list)
    raw: int | None = None  # bytes of its values in one piece
    n_typed: int = 0  # at least the number of values that come one by one
    location: int = 0
    entries: dict[str, str] = field(default_factory=dict)  # where it lies outside of the file


class _Reader:
    """The walk through one file: model, graph, nodes, attributes, tensors; never deeper."""

    def __init__(self, operators: Mapping[str, frozenset[str]], weights_name: str, weights_bytes: int) -> None:
        self._operators, self._weights_name, self._weights_bytes = operators, weights_name, weights_bytes
        self._budget = Budget(MAX_FIELDS)

    def model(self, data: memoryview) -> None:
        has_graph = False
        for number, value in fields(data, _MODEL, self._budget):
            if number == 7:
                self._graph(cast("memoryview", value))
                has_graph = True
        if not has_graph:
            raise BundleError("no graph inside")

    def _graph(self, data: memoryview) -> None:
        for number, value in fields(data, _GRAPH, self._budget):
            if number == 1:
                self._node(cast("memoryview", value))
            elif number == 5:
                self._tensor(cast("memoryview", value))

    def _node(self, data: memoryview) -> None:
        operator = domain = ""
        for number, value in fields(data, _NODE, self._budget):
            match number, value:
                case 4, memoryview():
                    operator = _text(value)
                case 7, memoryview():
                    domain = _text(value)
                case 5, memoryview():
                    self._attribute(value)
        domain = "" if domain == "ai.onnx" else domain
        if operator not in self._operators.get(domain, ()):
            raise BundleError(f"the operator {(domain + '.' if domain else '') + operator!r} is not allowed"[:200])

    def _attribute(self, data: memoryview) -> None:
        for number, value in fields(data, _ATTRIBUTE, self._budget):
            if number == 5:
                self._tensor(cast("memoryview", value))

    def _tensor(self, data: memoryview) -> None:
        tensor = _Tensor()
        for number, value in fields(data, _TENSOR, self._budget):
            match number, value:
                case 1, _:
                    tensor.dims += varints(value, self._budget)
                case 2, int():
                    tensor.data_type = value
                case 8, memoryview():
                    tensor.name = _text(value)
                case 9, memoryview():
                    tensor.raw = len(value)
                case 13, memoryview():
                    self._entry(value, tensor.entries)
                case 14, int():
                    tensor.location = value
                case _ if number in _TYPED:
                    tensor.n_typed += 1 if isinstance(value, int) else len(value)
        self._judge(tensor)

    def _judge(self, tensor: _Tensor) -> None:
        what, n_bytes = f"the tensor {tensor.name[:64]!r}", _n_bytes(tensor)
        if tensor.location == _EXTERNAL and tensor.raw is None and not tensor.n_typed:
            self._outside(what, n_bytes, tensor.entries)
        elif tensor.location or tensor.entries or (tensor.raw is not None and tensor.n_typed):
            raise BundleError(f"{what} is in two places")
        elif tensor.raw is not None and tensor.raw != n_bytes:
            raise BundleError(f"{what} has {tensor.raw} bytes, and its shape says {n_bytes}")
        elif tensor.raw is None and math.prod(tensor.dims) > 2 * tensor.n_typed:  # two values of four bits a byte
            raise BundleError(f"{what} has fewer values than its shape says")

    def _entry(self, data: memoryview, entries: dict[str, str]) -> None:
        pair = {number: _text(cast("memoryview", value)) for number, value in fields(data, _ENTRY, self._budget)}
        key = pair.get(1, "")
        if key in entries:
            raise BundleError(f"external data with two values of {key!r}"[:200])
        entries[key] = pair.get(2, "")

    def _outside(self, what: str, n_bytes: int, entries: dict[str, str]) -> None:
        if entries.keys() != {"location", "offset", "length"}:
            raise BundleError(f"{what}: external data needs location, offset and length and nothing else")
        if entries["location"] != self._weights_name:
            raise BundleError(f"{what} lies in {entries['location'][:64]!r}, not in {self._weights_name}")
        offset, length = (_number(entries[key], what) for key in ("offset", "length"))
        if length != n_bytes:
            raise BundleError(f"{what} has {length} bytes outside, and its shape says {n_bytes}")
        if offset + length > self._weights_bytes:
            raise BundleError(f"{what} reaches beyond the end of {self._weights_name}")


def _n_bytes(tensor: _Tensor) -> int:
    what = f"the tensor {tensor.name[:64]!r}"
    if tensor.data_type not in _BITS:
        raise BundleError(f"{what} is of type {tensor.data_type}, which is not taken")
    if len(tensor.dims) > _MAX_DIMS or any(size > _MAX_SIZE for size in tensor.dims):  # -1 comes as more than 2^63
        raise BundleError(f"{what} has an impossible shape")
    return (math.prod(tensor.dims) * _BITS[tensor.data_type] + 7) // 8


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_NUMBER_CHARS):
        raise BundleError(f"{what}: external data with an impossible number")
    return int(text)


def _text(value: memoryview) -> str:
    if len(value) > _MAX_TEXT_BYTES:
        raise MalformedMessageError(f"a name of {len(value)} bytes")
    return bytes(value).decode("utf-8", "replace")
