"""Pass: how much memory a trainer will need for a batch and a length, from the finished training graph alone.

The graph is walked in the order of the file, which is the order in which the engine runs it. A value lives from the
operation that makes it to the last one that reads it; reshapes are views; a few operations write over an input that
nobody reads any more, as they do in the runtime. To the peak of that come the mapped weights and what the
process has before its first step.

Laws: deterministic and made without running anything, so that equal exports stay equal; a prediction, checked against
trainer processes by ``make bench-memory``, whose goal is 20 %. Linear time in the graph for each pair of sizes.
"""

import ast
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from export.quantise import LEAST_BYTES, MOST_PIECES, MOST_WIDENED, Precision
from protocol.bundle import MemoryPeak
from protocol.dropout import mask_name

__all__ = ["Sizes", "activation_bytes", "plan_memory", "sizes_for", "weight_bytes"]

MB = 2**20
# The trainer with numpy, onnxruntime, a tokenizer and an empty session, before its first step.
PROCESS_BYTES = 64 * MB
# What a session keeps of an operation: strips of few-bit weights make a graph of some thousands of them.
OPERATION_BYTES = 4 * 1024
# The arena's own losses between blocks of changing sizes; measured 1.02 to 1.15.
ARENA_FACTOR = 1.1
# The kernel maps sixteen pages for each that is touched, so a row of an embedding costs this much.
FAULT_BYTES = 64 * 1024
# theta, gradient, two moments and the optimiser's temporaries.
VECTORS = 7
BATCHES = (1, 2, 4, 8, 16)
SEQS = (32, 64, 128, 256, 512)
# Of float32, scales among them.
PARTS: dict[Precision, float] = {"fp32": 1.0, "fp16": 0.5, "int8": 0.26, "nb8": 0.29, "nb4": 0.16}
MASKS = mask_name(0)[:-1]
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"})
# What onnxruntime 1.32 writes over a dying input, by a profile of its steps (it has each one's allocations): sums,
# products and exponentials are never among it.
_IN_PLACE = frozenset({"Clip", "LogSoftmax", "Relu", "ScatterElements", "Sigmoid", "Softmax", "Tanh"})
_ARITHMETIC: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A batch to ask about; ``seq`` is 0 where the examples have no length of their own."""

    batch: int
    seq: int


def sizes_for(max_tokens: int | None) -> tuple[Sizes, ...]:
    """Return the batches that a bundle's plan speaks of, up to its longest text (None: no text)."""
    lengths = (0,) if max_tokens is None else tuple(sorted({n for n in SEQS if n < max_tokens} | {max_tokens}))
    return tuple(Sizes(batch=batch, seq=seq) for seq in lengths for batch in BATCHES)


def plan_memory(
    model: ir.Model, sizes: Iterable[Sizes], *, n_params: int, precision: Precision = "fp32"
) -> tuple[MemoryPeak, ...]:
    """Return the predicted peak resident memory of a trainer for each of ``sizes``, in bytes.

    Requires: a training graph as ``pack`` leaves it, or one that still has its weights inside; ``precision`` other
    than fp32 asks of a float32 graph what it would need with its weights stored so.
    """
    return tuple(
        MemoryPeak(
            batch=one.batch,
            seq=one.seq or None,
            peak_bytes=int(
                PROCESS_BYTES
                + OPERATION_BYTES * len(model.graph)
                + VECTORS * 4 * n_params
                + weight_bytes(model.graph, n_tokens=one.batch * max(one.seq, 1), precision=precision)
                + ARENA_FACTOR * activation_bytes(model.graph, one)
            ),
        )
        for one in sizes
    )


def weight_bytes(graph: ir.Graph, *, n_tokens: int, precision: Precision = "fp32") -> int:
    """Return how much of the mapped weights one step touches, and the most that is widened at once in a precision."""
    total: dict[str | tuple[object, object], int] = {}
    widened = 0
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        by_row = all(use.node.op_type == "Gather" for use in value.uses())
        place = (tensor.offset, tensor.length) if isinstance(tensor, ir.ExternalTensor) else name
        is_large = tensor.dtype == ir.DataType.FLOAT and tensor.nbytes >= LEAST_BYTES and len(tensor.shape) > 1
        part = PARTS[precision] if is_large else 1.0
        n_bytes = int(tensor.nbytes * (max(part, PARTS["int8"]) if by_row and part < 0.5 else part))
        total[place] = min(n_bytes, n_tokens * FAULT_BYTES) if by_row else n_bytes
        if part < 1.0 and not by_row:
            widened = max(widened, min(tensor.nbytes, max(4 * MOST_WIDENED, tensor.nbytes // MOST_PIECES)))
    return sum(total.values()) + widened


def activation_bytes(graph: ir.Graph, sizes: Sizes) -> int:
    """Return the largest sum of values that live at once while the graph runs, in bytes."""
    known = _symbols(graph, sizes)
    nodes = list(graph)
    last = _last_reads(graph, nodes)
    holder: dict[ir.Value, ir.Value] = {}  # a value -> the one whose buffer it lies in
    live: dict[ir.Value, int] = {}  # the owner of a buffer -> its bytes
    ends: dict[ir.Value, int] = {}  # the owner -> the last place at which anything in it is read
    peak = now = 0
    for place, node in enumerate(nodes):
        for output in node.outputs:
            owner = _owner_of(node, output, holder, live, ends, place=place, known=known)
            holder[output] = owner
            ends[owner] = max(ends.get(owner, -1), last[output])
            if owner is output:
                live[owner] = _bytes(output, known)
                now += live[owner]
        peak = max(peak, now)
        for owner in {holder[value] for value in (*node.inputs, *node.outputs) if value in holder}:
            if ends[owner] <= place:
                now -= live.pop(owner, 0)
    return peak


def _owner_of(  # noqa: PLR0913 - the state of the walk
    node: ir.Node,
    output: ir.Value,
    holder: dict[ir.Value, ir.Value],
    live: dict[ir.Value, int],
    ends: dict[ir.Value, int],
    *,
    place: int,
    known: dict[str, int],
) -> ir.Value:
    """Return the value in whose buffer ``output`` will lie: a view's source, a dying input's, or its own."""
    inputs = [value for value in node.inputs if value is not None and value in holder]
    if node.op_type in _VIEWS and inputs and node.inputs[0] in holder:
        return holder[inputs[0]]
    if node.op_type in _IN_PLACE:
        for value in inputs:
            owner = holder[value]
            if ends[owner] <= place and owner in live and live[owner] == _bytes(output, known):
                return owner
    return output


def _last_reads(graph: ir.Graph, nodes: list[ir.Node]) -> dict[ir.Value, int]:
    last: dict[ir.Value, int] = {}
    for place, node in enumerate(nodes):
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                last[value] = place
    return last | dict.fromkeys(graph.outputs, len(nodes))


def _symbols(graph: ir.Graph, sizes: Sizes) -> dict[str, int]:
    """Return the graph's names of batch and sequence with their sizes; they are the axes of the batch's tensors."""
    known: dict[str, int] = {}
    for value in graph.inputs:
        if (value.name or "").startswith(MASKS):  # their axes are sums, and those of the others come first
            continue
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and size.value is not None:
                known.setdefault(size.value, sizes.batch if axis == 0 else sizes.seq)
    return known


def _bytes(value: ir.Value, known: dict[str, int]) -> int:
    if value.shape is None or value.dtype is None:
        return 0
    count = 1
    for size in value.shape:
        count *= size if isinstance(size, int) else _size(size.value, known)
    return int(count * value.dtype.itemsize)


def _size(expression: str | None, known: dict[str, int]) -> int:
    """Return the number that a symbolic size such as ``12*s68`` stands for; 1 for one that the lowering lost."""
    if expression is None:
        return 1
    try:
        return _evaluate(ast.parse(expression, mode="eval").body, known)
    except (SyntaxError, KeyError):
        return 1


def _evaluate(node: ast.expr, known: dict[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return known[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_evaluate(node.left, known), _evaluate(node.right, known))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, known)
    raise KeyError(ast.dump(node))
