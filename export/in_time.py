"""Pass: what the backward makes of kept values alone is not made before the backward is there.

To a runtime an operation is ready as soon as its inputs are. Half of a norm's backward, and the norm that is made again
(``export/again.py``), read only what the forward kept; onnxruntime ran them for all layers one after the other at the
first operation that its own fusions had moved to the end of its list, so that two tensors a layer lived where one had
to. So one input of such an operation goes through a Reshape, which is a view, whose -1 is made from a size of the last
value that the backward made before it.

Laws: the same function, the same bits; nothing is computed by it but sizes.
"""

import math

import numpy as np
import onnx_ir as ir

from export.constants import once
from protocol.errors import LocalProtocolError
from protocol.per_example import LOSSES

__all__ = ["hold_back", "minus_one"]

_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"})
# Whose results say how far the backward has come: nothing that a runtime would rather fuse with its reader.
_MARKS = frozenset({"Add", "Sub", "Mul", "Gemm"})
_LEAST = 16  # numbers for each example or token; what is smaller may come when it will


def hold_back(graph: ir.Graph) -> int:
    """Let what the backward makes of the forward's values alone wait for its turn; return how many operations do.

    Requires: a graph in order; if it trains, its first output is the loss or the losses, which stand between forward
    and backward. Others are left as they are.
    Ensures: the same outputs.
    """
    if graph.outputs[0].name not in {"loss", LOSSES}:
        return 0
    nodes = list(graph)
    border = nodes.index(_producer(graph.outputs[0]))
    late: set[ir.Node] = set()
    mark: ir.Value | None = None
    n_held = 0
    for node in nodes[border + 1 :]:
        result = node.outputs[0]
        if result.dtype != ir.DataType.FLOAT or _free_axis(result) is None:
            continue
        if not any(value is not None and value.producer() in late for value in node.inputs):
            if node.op_type in _VIEWS:
                continue
            if mark is not None and _is_large(result) and not _wait(graph, node, mark):
                continue
            n_held += mark is not None and _is_large(result)
        late.add(node)
        if node.op_type in _MARKS:
            mark = result
    return n_held


def _wait(graph: ir.Graph, node: ir.Node, mark: ir.Value) -> bool:
    """Let ``node`` wait for ``mark``; return whether it has an input by which it can."""
    able = [
        (_size(value), place)
        for place, value in enumerate(node.inputs)
        if value is not None and value.producer() is not None and value.dtype == ir.DataType.FLOAT and value.shape
    ]
    if not able:
        return False
    place = min(able)[1]
    value = node.inputs[place]
    if value is None or value.shape is None:
        raise LocalProtocolError(f"{node.name}: an input without a shape was to wait")
    shape = _same_shape(graph, mark, len(value.shape))
    held = ir.Node("", "Reshape", [value, shape], name=f"{node.name}.{place}.in_time")
    output = held.outputs[0]
    output.name, output.type, output.shape = held.name, value.type, value.shape
    graph.insert_before(node, held)
    node.replace_input_with(place, output)
    return True


def _same_shape(graph: ir.Graph, mark: ir.Value, rank: int) -> ir.Value:
    """Return [0, .. 0, -1], int64 [rank], a Reshape to which changes nothing, once ``mark`` is there."""
    least = minus_one(graph, mark, _free_axis(mark) or 0)
    if rank == 1:
        return least
    name = f"{least.name}.{rank}"
    for use in least.uses():
        if use.node.name == name:
            return use.node.outputs[0]
    # A product: of a Concat with zeros onnxruntime would make a constant, and wait for nothing.
    last = once(graph, f"last_of_{rank}", np.eye(rank, dtype=np.int64)[-1])
    node = ir.Node("", "Mul", [last, least], name=name)
    output = node.outputs[0]
    output.name, output.type, output.shape = name, ir.TensorType(ir.DataType.INT64), ir.Shape([rank])
    graph.insert_after(_producer(least), node)
    return output


def minus_one(graph: ir.Graph, value: ir.Value, axis: int) -> ir.Value:
    """Return [-1], int64, computed right after ``value`` from its size on ``axis``; one for all who ask."""
    producer = _producer(value)
    name = f"{value.name}.is_there"
    for use in value.uses():
        if use.node.name == f"{name}.size":
            return next(iter(use.node.outputs[0].uses())).node.outputs[0]
    most = once(graph, "minus_one", np.array(-1, np.int64))
    sizes = [ir.AttrInt64("start", axis), ir.AttrInt64("end", axis + 1)]
    size = ir.Node("", "Shape", [value], sizes, name=f"{name}.size")
    least = ir.Node("", "Clip", [size.outputs[0], None, most], name=name)
    for node in (size, least):
        output = node.outputs[0]
        output.name, output.type, output.shape = node.name, ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    graph.insert_after(producer, [size, least])
    return least.outputs[0]


def _producer(value: ir.Value) -> ir.Node:
    producer = value.producer()
    if producer is None:
        raise LocalProtocolError(f"{value.name}: only computed values can be waited for")
    return producer


def _free_axis(value: ir.Value) -> int | None:
    """Return the first axis whose size is not known beforehand: one that is would be no reason to wait."""
    free = [axis for axis, size in enumerate(value.shape or ()) if not isinstance(size, int)]
    return free[0] if free else None


def _size(value: ir.Value) -> int:
    return math.prod(size for size in value.shape or () if isinstance(size, int))


def _is_large(value: ir.Value) -> bool:
    return _size(value) >= _LEAST
