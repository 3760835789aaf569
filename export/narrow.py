"""Pass: compute only what the output reads.

A classifier reads one token of the last layer (BERT's pooler takes the first), yet the model as written computes the
last layer's query, attention, feed-forward and norms for every token and then throws them away. This pass moves the
choice up through every operation that treats tokens independently, to the keys and values, where it must stop. The
result is the same function, and forward, backward and memory all lose most of one layer.

Laws: exact, no approximation; works on the exported forward, before anything is differentiated; a value that someone
still reads in full is cut where it is read, never computed twice. It knows operations, not models.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import cast

import torch
from torch.fx import Graph, Node

__all__ = ["narrow"]

aten = torch.ops.aten
ASSERTION = aten._assert_tensor_metadata.default  # noqa: SLF001 - torch has no public name for it
# Given a node and the axis of its result that is cut: the inputs to cut, each with its axis; None: it stops here.
Rule = Callable[[Node, int], list[tuple[Node, int]] | None]


def narrow(graph: Graph) -> int:
    """Cut every ``select(x, axis, index)`` as early as it can be; return how many operations became smaller.

    Requires: a graph of ``torch.export`` before decomposition, with example values in ``meta["val"]``.
    Ensures: the same outputs; assertions on metadata are gone (they speak of the old sizes); no product reads a cut
    where it lies.
    """
    for node in list(graph.nodes):
        if node.target is ASSERTION:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    n_smaller = 0
    for node in list(graph.nodes):
        if node.target is aten.select.int and _rank(_input(node)) > 1 and _from_start(node):
            n_smaller += _narrow_one(graph, node)
    for node in list(graph.nodes):
        if node.target is aten.linear.default and _input(node).target is aten.slice.Tensor:
            with graph.inserting_before(node):
                node.update_arg(0, _whole(graph, _input(node)))
    graph.eliminate_dead_code()
    return n_smaller


def _from_start(select: Node) -> bool:
    """Let ``select`` count from the start; return False where the length is a symbol, so that it cannot."""
    length, index = _shape(_input(select))[_number(select, 1)], _number(select, 2)
    if index < 0 and isinstance(length, int):
        select.update_arg(2, index + length)
    return _number(select, 2) >= 0


def _narrow_one(graph: Graph, select: Node) -> int:
    source, axis, index = _input(select), _number(select, 1), _number(select, 2)
    rank = _rank(source)
    demands: dict[Node, list[tuple[Node, int]]] = defaultdict(list)  # value -> who reads it cut, and on which axis
    demands[source].append((select, axis % rank))
    smaller: list[tuple[Node, int]] = []
    for node in reversed(list(graph.nodes)):  # readers come before what they read
        if node not in demands:
            continue
        axes = {axis for _, axis in demands[node]}
        whole = len({reader for reader, _ in demands[node]}) < len(node.users)
        rule = RULES.get(node.target)
        inputs = rule(node, min(axes)) if rule and not whole and len(axes) == 1 else None
        if inputs is None:
            continue
        for value, value_axis in inputs:
            demands[value].append((node, value_axis))
        smaller.append((node, min(axes)))
        del demands[node]
    if not smaller:
        return 0
    for node, cut in smaller:
        _resize(node, cut)
    for value, readers in demands.items():
        for cut in sorted({axis for _, axis in readers}):
            with graph.inserting_after(value):  # one cut for all its readers: its backward pads once
                cut_out = graph.call_function(aten.slice.Tensor, (value, cut, index, index + 1))
            with graph.inserting_after(cut_out):
                piece = _whole(graph, cut_out)
            for reader in dict.fromkeys(reader for reader, axis in readers if axis == cut):
                reader.replace_input_with(value, piece)
    select.update_arg(2, 0)
    return len(smaller)


def _whole(graph: Graph, cut_out: Node) -> Node:
    """Return the cut in memory of its own, else a product with it copies its weights once an example."""
    return graph.call_function(aten.contiguous.default, (cut_out,))


def _resize(node: Node, axis: int) -> None:
    """Let a reshape ask for one element on ``axis``; every other operation takes its size from its inputs."""
    if node.target in {aten.view.default, aten.reshape.default}:
        sizes = list(cast("list[object]", node.args[1]))
        sizes[axis] = 1
        node.update_arg(1, sizes)  # type: ignore[arg-type]  # sizes are integers and symbols


def _input(node: Node, position: int = 0) -> Node:
    return cast("Node", node.args[position])


def _number(node: Node, position: int) -> int:
    return cast("int", node.args[position])


def _shape(node: Node) -> torch.Size:
    return cast("torch.Tensor", node.meta["val"]).shape


def _rank(node: Node) -> int:
    return len(_shape(node))


def _pointwise(node: Node, axis: int) -> list[tuple[Node, int]]:
    """Follow broadcasting: an input without the axis, or of size one there, is left whole."""
    found = []
    for value in node.all_input_nodes:
        if not isinstance(value.meta.get("val"), torch.Tensor):
            continue
        own = axis - (_rank(node) - _rank(value))
        if own >= 0 and _shape(value)[own] != 1:
            found.append((value, own))
    return found


def _rows(n_last: Callable[[Node], int]) -> Rule:
    """Operations on the last ``n_last`` axes of their first input, independent along all others."""

    def rule(node: Node, axis: int) -> list[tuple[Node, int]] | None:
        return [(_input(node), axis)] if axis < _rank(node) - n_last(node) else None

    return rule


def _along(node: Node, axis: int) -> list[tuple[Node, int]] | None:
    """Follow an operation along the axis that its second argument names, where that is another one."""
    return None if _number(node, 1) % _rank(node) == axis else [(_input(node), axis)]


def _transpose(node: Node, axis: int) -> list[tuple[Node, int]]:
    rank = _rank(node)
    first, second = _number(node, 1) % rank, _number(node, 2) % rank
    return [(_input(node), {first: second, second: first}.get(axis, axis))]


def _matmul(node: Node, axis: int) -> list[tuple[Node, int]] | None:
    left, right = _input(node, 0), _input(node, 1)
    same_rank = _rank(left) == _rank(right) == _rank(node)
    return [(left, axis)] if same_rank and axis == _rank(node) - 2 else None


def _reshape(node: Node, axis: int) -> list[tuple[Node, int]] | None:
    """A reshape that leaves the axes up to ``axis`` alone."""
    source = _input(node)
    kept = _shape(source)[: axis + 1] == _shape(node)[: axis + 1]
    return [(source, axis)] if kept else None


RULES: dict[object, Rule] = {
    aten.add.Tensor: _pointwise,
    aten.mul.Tensor: _pointwise,
    aten.sub.Tensor: _pointwise,
    aten.div.Tensor: _pointwise,
    aten.gelu.default: _pointwise,
    aten.tanh.default: _pointwise,
    aten.relu.default: _pointwise,
    aten.silu.default: _pointwise,
    aten.dropout.default: _pointwise,
    aten.to.dtype: _pointwise,
    aten.contiguous.default: _pointwise,
    aten.linear.default: _rows(lambda _: 1),
    aten.layer_norm.default: _rows(lambda node: len(cast("list[int]", node.args[1]))),
    aten.softmax.int: _along,
    aten.slice.Tensor: _along,
    aten.transpose.int: _transpose,
    aten.matmul.default: _matmul,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
}
