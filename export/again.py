"""Pass: what a few sums and products make of values that the backward keeps anyway is made again, not kept.

The gradient of a LoRA pair needs what its layer read: the result of a norm, whose own backward keeps the norm's input,
mean and deviation. One of about twelve tensors of a layer's width that wait for the backward is so computed twice, in
three passes over memory.

Laws: the same function up to the last rounding of a norm; nothing is kept longer than it was; no product of matrices,
no exponential and no root is computed twice. It knows operations, not models.
"""

from operator import getitem
from typing import cast

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

__all__ = ["compute_again"]

aten = torch.ops.aten
_VIEWS = frozenset({aten.view.default, aten._unsafe_view.default})  # noqa: SLF001 - torch has no public name for it
_CHEAP = frozenset({aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor})
_MOST_DEEP = 2  # of operations on operations


def compute_again(module: GraphModule) -> int:
    """Let the backward make what it can from what it has; return how many values no longer wait for it.

    Requires: a module of core operations whose first output, the loss, stands between forward and backward.
    Ensures: the same outputs.
    """
    walk = _Walk(module.graph)
    for node in walk.waiting:
        if walk.can_make(node, until=walk.ends[node]):
            walk.gone.add(node)
            walk.make_again(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return len(walk.gone)


class _Walk:
    """The graph as it was, in order, with how long each value is read, by itself or through views of it."""

    def __init__(self, graph: Graph) -> None:
        self._graph, nodes = graph, list(graph.nodes)
        self._place = {node: number for number, node in enumerate(nodes)}
        (loss, *_) = cast("tuple[Node, ...]", nodes[-1].args[0])
        self._border = self._place[loss]
        self.ends = dict.fromkeys(nodes, -1)
        for node in reversed(nodes):  # readers come before what they read
            self.ends[node] = max([self.ends[node], *(self._place[user] for user in node.users)])
            if node.target in _VIEWS:
                source = cast("Node", node.args[0])
                self.ends[source] = max(self.ends[source], self.ends[node])
        self.waiting = [node for node in nodes if self._waits(node)]
        self.gone: set[Node] = set()

    def _waits(self, node: Node) -> bool:
        value = node.meta.get("val")
        is_own = node.op == "call_function" and node.target not in _VIEWS
        is_large = is_own and isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1
        return is_large and self._place[node] < self._border < self.ends[node]

    def can_make(self, node: Node, *, until: int, depth: int = 0) -> bool:
        """Return whether a value can be made from what is there to the place ``until`` in any case."""
        parts = _parts(node) if depth <= _MOST_DEEP else None
        if parts is None:
            return False
        return all(
            self._is_there(one, until) or self.can_make(_source(one), until=until, depth=depth + 1) for one in parts
        )

    def _is_there(self, node: Node, until: int) -> bool:
        source = _source(node)
        is_small = not isinstance(source.meta.get("val"), Tensor)  # a size
        is_given = source.op in {"placeholder", "get_attr"} or is_small
        return is_given or (source not in self.gone and self.ends[source] >= until)

    def make_again(self, node: Node) -> None:
        """Give the readers behind the loss a value of their own, made right before the first of them."""
        until, late = self.ends[node], self._late_readers(node)
        with self._graph.inserting_before(min(late, key=self._place.__getitem__)):
            self._hand_on(node, self._make(node, until))

    def _late_readers(self, node: Node) -> list[Node]:
        found = []
        for user in node.users:
            if self._place.get(user, -1) > self._border:
                found.append(user)
            elif user.target in _VIEWS:
                found += self._late_readers(user)
        return found

    def _hand_on(self, node: Node, made: Node) -> None:
        for user in list(node.users):
            if self._place.get(user, -1) > self._border:
                user.replace_input_with(node, made)
            elif user.target in _VIEWS and self._late_readers(user):
                self._hand_on(user, self._put(user, (made, *user.args[1:])))

    def _make(self, node: Node, until: int) -> Node:
        def there(one: Node) -> Node:
            if self._is_there(one, until):
                return one
            if one.target in _VIEWS:
                return self._put(one, (there(cast("Node", one.args[0])), *one.args[1:]))
            return self._make(one, until)

        if node.target is not getitem:
            return self._put(node, tuple(there(one) if isinstance(one, Node) else one for one in node.args))
        x, mean, deviation, *factors = map(there, _parts(node) or ())
        weight, bias = cast("tuple[Node | None, Node | None]", cast("Node", node.args[0]).args[2:4])
        result = self._put(node, (x, mean), aten.sub.Tensor)
        result = self._put(node, (result, deviation), aten.mul.Tensor)
        if weight is not None:
            result = self._put(node, (result, factors.pop(0)), aten.mul.Tensor)
        return result if bias is None else self._put(node, (result, factors.pop(0)), aten.add.Tensor)

    def _put(self, like: Node, args: tuple[object, ...], target: object = None) -> Node:
        made = self._graph.call_function(target or like.target, args)  # type: ignore[arg-type]
        made.meta = dict(like.meta)
        return made


def _source(node: Node) -> Node:
    while node.target in _VIEWS:
        node = cast("Node", node.args[0])
    return node


def _parts(node: Node) -> list[Node] | None:
    """Return what a value is made of, if that is little work: x, mean, 1 / deviation, weight and bias of a norm."""
    if node.target in _CHEAP and not node.kwargs:
        return [one for one in node.args if isinstance(one, Node)]
    if node.target is not getitem or node.args[1] != 0:
        return None
    norm = cast("Node", node.args[0])
    if norm.target is not aten.native_layer_norm.default:
        return None
    others = {user.args[1]: user for user in norm.users if user.target is getitem}
    x, _, weight, bias, _ = norm.args
    found = [x, others.get(1), others.get(2), *(one for one in (weight, bias) if one is not None)]
    return cast("list[Node]", found) if None not in found else None
