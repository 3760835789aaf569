"""Pass: what lies between two wide weights in pieces is computed strip by strip.

A feed-forward is four times as wide as its model, and its activation holds four values of that width at once: on MiniLM
at 16 x 64 these were 24 of the 107 MB between forward and backward. Where both weights are in pieces, each strip of
what the first gives meets one piece of the second alone, so nothing has to be joined between them:

    y = a(x W_0) V_0 + (a(x W_1) V_1 + ...)     in place of     y = a(Concat(x W_0, x W_1, ...)) cut for V_0, V_1, ...

A strip's operations stand right before the product that takes it up, and what widens the next strip's weight waits for
that product. What the backward needs of the forward is kept in strips.

Laws: the same operations on the same numbers, no sum in another order; a wide value that anything else reads (a LoRA
pair, a bias that is trained, an output of the graph) leaves its whole neighbourhood as it was.
"""

from dataclasses import dataclass, field

import onnx_ir as ir

from export.pieces import AFTER
from protocol.errors import LocalProtocolError

__all__ = ["compute_by_strips"]

# Each number of the result is made of numbers at its own place, so columns can be computed apart.
_BY_NUMBER = frozenset(
    {"Add", "Div", "Erf", "Exp", "Gelu", "Identity", "Mul", "Neg", "Pow", "Relu", "Sigmoid", "Sqrt", "Sub", "Tanh"}
    | {"Cast", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Where"}
)


def compute_by_strips(graph: ir.Graph) -> int:
    """Let every neighbourhood of wide values that can be computed strip by strip; return how many there were.

    Requires: a graph as ``pieces.cut_products`` leaves it.
    Ensures: the same outputs.
    """
    n_found = 0
    for node in list(graph):
        if node.graph is graph and _joins_products(node):
            found = _neighbourhood(node)
            n_found += found is not None and _rewrite(graph, found)
    return n_found


@dataclass(slots=True)
class _Neighbourhood:
    """Wide values that are made of each other, with all that makes and all that reads them."""

    widths: tuple[int, ...]  # of the strips
    makers: list[ir.Node] = field(default_factory=list)  # of one wide value each: joins, reshapes, work by number
    cuts: list[list[ir.Node]] = field(default_factory=list)  # by strip, what cuts it out for a product


def _neighbourhood(join: ir.Node) -> _Neighbourhood | None:
    """Return the neighbourhood of what ``join`` makes; None where something in it needs more than a strip."""
    found = _Neighbourhood(widths=_widths(join))
    found.cuts = [[] for _ in found.widths]
    queue, seen = [join.outputs[0]], {join.outputs[0]}
    while queue:
        value = queue.pop()
        maker = value.producer()
        beside = None if maker is None or value.is_graph_output() else _wide_inputs(maker, found.widths)
        if maker is None or beside is None:
            return None
        found.makers.append(maker)
        for node, index in value.uses():
            number = _number_of_strip(node, found.widths)
            if number is not None and index == 0:
                found.cuts[number].append(node)
            elif _wide_inputs(node, found.widths) is None:
                return None
            else:
                beside = [*beside, node.outputs[0]]
        new = [one for one in dict.fromkeys(beside) if one not in seen]
        queue += new
        seen.update(new)
    return found if any(found.cuts) else None


def _wide_inputs(node: ir.Node, widths: tuple[int, ...]) -> list[ir.Value] | None:
    """Return the wide values of which ``node`` makes a wide value column by column; None: it does not."""
    if _joins_products(node):
        return [] if _widths(node) == widths else None
    first, *others = node.inputs
    if first is None or _width(node.outputs[0]) != sum(widths):
        return None
    if node.op_type == "Reshape":
        return [first] if _width(first) == sum(widths) else None
    if node.op_type not in _BY_NUMBER:
        return None
    wide = [one for one in (first, *others) if one is not None and not _is_one_number(one)]
    is_even = all(one.const_value is None and one.shape == node.outputs[0].shape for one in wide)
    return wide if wide and is_even else None


def _joins_products(node: ir.Node) -> bool:
    """Return whether a node is the end of ``pieces``'s products side by side, whose parts nobody else reads."""
    if node.op_type != "Concat" or node.attributes["axis"].as_int() != 1:
        return False
    makers = [None if one is None else one.producer() for one in node.inputs]
    return all(maker is not None and maker.op_type == "Gemm" and len(maker.outputs[0].uses()) == 1 for maker in makers)


def _number_of_strip(node: ir.Node, widths: tuple[int, ...]) -> int | None:
    """Return which strip a node cuts out for a product; None: it does something else."""
    if node.op_type != "Slice" or len(node.inputs) != 4:
        return None
    bounds = [None if one is None or one.const_value is None else one.const_value.numpy() for one in node.inputs[1:]]
    uses = list(node.outputs[0].uses())
    if any(one is None or one.size != 1 for one in bounds) or len(uses) != 1:
        return None
    start, end, axis = (int(one.item()) for one in bounds if one is not None)
    transposed = uses[0].node.attributes.get("transA")
    is_taken = uses[0].node.op_type == "Gemm" and uses[0].idx == 0 and (transposed is None or not transposed.as_int())
    starts = [sum(widths[:number]) for number in range(len(widths))]
    is_strip = is_taken and axis == 1 and start in starts and end - start == widths[starts.index(start)]
    return starts.index(start) if is_strip else None


def _rewrite(graph: ir.Graph, found: _Neighbourhood) -> bool:
    """Put strips in the place of wide values; return False where products do not take them up side by side."""
    place = {node: number for number, node in enumerate(graph)}
    cuts = [sorted(nodes, key=place.__getitem__) for nodes in found.cuts]
    if any([node.inputs[0] for node in nodes] != [node.inputs[0] for node in cuts[0]] for nodes in cuts):
        return False
    makers = sorted(found.makers, key=place.__getitem__)
    strips: list[dict[ir.Value | None, ir.Value]] = [{} for _ in cuts]
    for cut in zip(*cuts, strict=True):  # one wide value, of which one product after the other takes a strip
        n_now = sum(place[node] < place[cut[0]] for node in makers)
        now, makers = makers[:n_now], makers[n_now:]
        after: ir.Value | None = None
        for number, node in enumerate(cut):
            product = next(iter(node.outputs[0].uses())).node
            for maker in now:
                strips[number][maker.outputs[0]] = _strip(graph, maker, number, strips[number], at=product, after=after)
            product.replace_input_with(0, strips[number][node.inputs[0]])
            product.meta.pop(AFTER, None)  # its strip is what it waits for
            after = product.outputs[0]
    for node in sorted((*found.makers, *(one for nodes in cuts for one in nodes)), key=place.__getitem__, reverse=True):
        graph.remove(node, safe=True)
    return True


def _strip(
    graph: ir.Graph,
    maker: ir.Node,
    number: int,
    strips: dict[ir.Value | None, ir.Value],
    *,
    at: ir.Node,
    after: ir.Value | None,
) -> ir.Value:
    """Return a strip of what ``maker`` makes, computed right before ``at``."""
    if maker.op_type == "Reshape":
        return strips[maker.inputs[0]]
    if maker.op_type != "Concat":
        inputs = [strips.get(one, one) for one in maker.inputs]
        name = f"{maker.outputs[0].name}.strip{number}"
        node = ir.Node("", maker.op_type, inputs, maker.attributes.values(), name=name)
        shape = next(strips[one].shape for one in maker.inputs if one in strips)
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, maker.outputs[0].type, shape
        graph.insert_before(at, node)
        return node.outputs[0]
    result = maker.inputs[number]
    product = None if result is None else result.producer()
    if result is None or product is None:  # ``_joins_products`` looked at it
        raise LocalProtocolError(f"{maker.name}: a part of what is joined is missing")
    graph.remove(product)
    graph.insert_before(at, product)
    product.meta.pop(AFTER, None)
    if after is not None:
        product.meta[AFTER] = after
    return result


def _width(value: ir.Value | None) -> int | None:
    size = value.shape[-1] if value is not None and value.shape else None
    return size if isinstance(size, int) else None


def _widths(join: ir.Node) -> tuple[int, ...]:
    return tuple(_width(one) or 0 for one in join.inputs)


def _is_one_number(value: ir.Value) -> bool:
    """Return whether a value is the same for every number of another, and says so by its shape."""
    return value.shape is not None and len(value.shape) <= 1 and all(size == 1 for size in value.shape)
