"""Which values of a traced step depend on its examples, and where it reduces over them: read from symbols alone.

Laws: a size counts as "of examples" if its symbolic expression is a multiple of the batch's symbol, so a size that
merely has the same number does not; nothing is computed here.
"""

from collections.abc import Collection, Iterable
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node

__all__ = ["ExampleAxes", "UnknownRuleError"]

aten = torch.ops.aten
_ZEROS = (aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default)
_FULL: dict[Any, int] = {
    aten.scalar_tensor.default: 0,
    aten.full.default: 1,
    aten.full_like.default: 1,
    aten.new_full.default: 2,
}  # where the value stands
_INTO_ROWS = (aten.index_put.default, aten._unsafe_index_put.default)  # noqa: SLF001 - torch's name


class UnknownRuleError(Exception):
    """The graph does something with an example's gradient for which no rule is written."""

    def __init__(self, node: Node, why: str) -> None:
        """Say what the operation ``node`` is, and why."""
        super().__init__(f"{node.target}: {why}")


class ExampleAxes:
    """Facts about one traced step."""

    def __init__(self, graph: GraphModule, *, n_batch: int) -> None:
        """Read the graph; its last ``n_batch`` placeholders are the batch, each with the examples first."""
        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        given = placeholders[-n_batch:]
        self.batch: Node = given[0]
        self._symbol = _symbolic(_shape(self.batch)[0])
        dependent = set(given)
        for node in graph.graph.nodes:
            if _is_value(node) and any(one in dependent for one in node.all_input_nodes):
                dependent.add(node)
        self._dependent = frozenset(dependent)

    def depends(self, node: object) -> bool:
        """Return whether the argument is a value that the examples decide."""
        return node in self._dependent

    def reduced_by(self, pieces: Iterable[Node], *, known: Collection[Any]) -> frozenset[Node]:
        """Return all values from the places of reduction to ``pieces``.

        Raises:
            UnknownRuleError: an operation on the way is none of ``known``, or is to reduce over examples and does not.
        """
        found: set[Node] = set()
        left = [piece for piece in pieces if self.depends(piece)]
        while left:
            node = left.pop()
            if node in found:
                continue
            if any(self._is_of_examples(size) for size in _shape(node)):
                raise UnknownRuleError(node, "it has an axis of examples where a gradient should be reduced over them")
            if node.target not in known:
                raise UnknownRuleError(node, "there is no rule for it")
            found.add(node)
            if not self.reduces(node):
                left += [one for one in node.all_input_nodes if self.depends(one)]
        return frozenset(found)

    def reduces(self, node: Node) -> bool:
        """Return whether this operation is what reduces over examples."""
        first = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if node.target is aten.mm.default and first is not None:
            return self._leads(node, _shape(first)[-1])
        if node.target is aten.sum.dim_IntList and first is not None:
            return 0 in self.summed(node) and self._leads(node, _shape(first)[0])
        if node.target in _INTO_ROWS:
            slopes = cast("Node", node.args[2])
            return self._leads(node, _shape(slopes)[0])
        return False

    def summed(self, node: Node) -> list[int]:
        """Return the axes over which a sum goes, counted from the front."""
        n_axes = len(_shape(cast("Node", node.args[0])))
        axes = cast("list[int] | None", node.args[1]) or range(n_axes)
        return sorted(axis % n_axes for axis in axes)

    def refuse_constant(self, node: Node) -> None:
        """Return if a summand that no example decides is zero.

        Raises:
            UnknownRuleError: it may be something else, which belongs to no example.
        """
        at = _FULL.get(node.target)
        is_zero = node.target in _ZEROS or (at is not None and node.args[at] == 0)
        if not is_zero:
            raise UnknownRuleError(node, "a part of the gradient that no example decides")

    def _leads(self, node: Node, size: int | torch.SymInt) -> bool:
        if not self._is_of_examples(size):
            return False
        expression = _symbolic(size)
        if self._symbol in (expression / self._symbol).cancel().free_symbols:
            raise UnknownRuleError(node, f"an axis of {expression} values is no multiple of the examples")
        return True

    def _is_of_examples(self, size: int | torch.SymInt) -> bool:
        return isinstance(size, torch.SymInt) and self._symbol in _symbolic(size).free_symbols


def _is_value(node: Node) -> bool:
    """Return whether a node gives tensors: a size depends on how many examples there are, not on what they are."""
    return node.op == "output" or not isinstance(node.meta.get("val"), (torch.SymInt, torch.SymBool, int, bool))


def _shape(node: Node) -> tuple[int | torch.SymInt, ...]:
    value: Any = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise UnknownRuleError(node, "it gives several values")
    return tuple(value.shape)


def _symbolic(size: int | torch.SymInt) -> Any:  # noqa: ANN401 - sympy's expression, which has no types
    return cast("torch.SymInt", size).node.expr
