"""Pass: the gradient of picked log-probabilities holds two values as wide as the vocabulary, where autograd holds four.

Of ``log_softmax(x)`` one entry a row is picked, by the next token. autograd scatters the gradient v of what was picked
into zeros, and then subtracts exp(log p) times the row's sum of that, which is v again:

    g = 0; g[picked] += v; dx = g - exp(log p) sum(g)     becomes     dx = exp(log p) (-v); dx[picked] += v

At a vocabulary of 150,000 words one such value is 18 MB for each text of 32 tokens, more than a small model's weights.

Laws: the same bits, since every sum has one term that is not zero, and a difference is the sum with the negative.
"""

from typing import cast

import torch
from torch.fx import Graph, Node

__all__ = ["gradients_of_picked"]

aten = torch.ops.aten


def gradients_of_picked(graph: Graph) -> int:
    """Rewrite every such gradient; return how many there were.

    Requires: a graph of core operations, with example values in ``meta["val"]``.
    """
    n_found = 0
    for node in list(graph.nodes):
        found = _read(node)
        if found is None:
            continue
        probability, scattered = found
        _, axis, index, value = cast("tuple[Node, int, Node, Node]", scattered.args)
        with graph.inserting_before(node):
            negative = graph.call_function(aten.neg.default, (value,))
            spread = graph.call_function(aten.mul.Tensor, (probability, negative))
            result = graph.call_function(aten.scatter_add.default, (spread, axis, index, value))
        negative.meta, spread.meta, result.meta = (dict(one.meta) for one in (value, node, node))
        node.replace_all_uses_with(result)
        n_found += 1
    graph.eliminate_dead_code()
    return n_found


def _read(node: Node) -> tuple[Node, Node] | None:
    """Return (exp(log p), what was scattered) of a difference of that form."""
    scattered = _made_by(aten.scatter_add.default, node.args[0]) if node.target is aten.sub.Tensor else None
    product = None if scattered is None else _made_by(aten.mul.Tensor, node.args[1])
    if scattered is None or product is None or node.kwargs:
        return None
    zeros, axis, index, _ = cast("tuple[Node, int, Node, Node]", scattered.args)
    is_picked = index.meta["val"].shape[-1] == 1
    made = _made_by(aten.full.default, zeros)
    if not is_picked or made is None or made.args[1] != 0 or axis not in {-1, scattered.meta["val"].dim() - 1}:
        return None
    for one, other in (product.args, product.args[::-1]):
        probability, total = _made_by(aten.exp.default, one), _made_by(aten.sum.dim_IntList, other)
        if probability is not None and total is not None and total.args == (scattered, [-1], True):
            return probability, scattered
    return None


def _made_by(operation: object, value: object) -> Node | None:
    """Return ``value`` if ``operation`` makes it."""
    return value if isinstance(value, Node) and value.target is operation else None
