"""Pass: a product with a wide weight of few bits becomes products with its pieces.

A weight is widened to float32 for each product that reads it. Of BERT-base's feed-forward that is 9 MB beside
activations of 1 to 6, and a runtime's arena that has once taken 9 MB in one piece holds it to the end. So ``quantise``
cuts what is wider along its longer axis, and this pass lets each piece be widened, multiplied and
let go before the next:

    cut along what is summed over      y = x[:, a:b] W_0 + (x[:, b:c] W_1 + ...), each sum the C of the next Gemm
    cut along the result's last axis   y = Concat(x W_0, x W_1, ...)

A piece waits for the product before it (``AFTER``): a runtime may widen whatever is ready.

Laws: the same function up to the order of summation; standard operators; a table of which rows are picked is picked
from as a whole, and multiplied in pieces; a reader that is no Gemm gets the pieces joined.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.constants import once
from export.quantise import LEAST_PIECE, Cut, Table, stored_as
from protocol.errors import LocalProtocolError

__all__ = ["AFTER", "cut_products", "picks_rows"]

# In a node's ``meta``: the value that must be there before what the node reads is widened.
AFTER = "edgefold.after"


def cut_products(graph: ir.Graph, table: Table) -> int:
    """Let every reader of a weight that ``table`` has in pieces read these; return how many weights there were.

    Requires: a graph as ``products.absorb`` leaves it, weights inside.
    Ensures: the same function; each piece is an initializer of its own, which ``table`` has.
    """
    n_cut = 0
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < 2 * LEAST_PIECE:
            continue
        cut = stored_as(table, tensor.numpy())
        if not isinstance(cut, Cut):
            continue
        readers = [use for use in value.uses() if not (cut.whole is not None and picks_rows(use.node, use.idx))]
        pieces = [once(graph, f"{name}.{i}", part.values) for i, part in enumerate(cut.parts)] if readers else []
        for use in readers:
            if not _multiply(graph, use.node, use.idx, pieces, cut.axis):
                _join(graph, use.node, use.idx, pieces, cut)
        if not value.uses():
            del graph.initializers[name]
        n_cut += 1
    return n_cut


def picks_rows(node: ir.Node, index: int) -> bool:
    """Return whether a node picks whole rows of its input ``index``: an embedding's table."""
    axis = node.attributes.get("axis")
    return node.op_type == "Gather" and index == 0 and (axis is None or axis.as_int() == 0)


def _join(graph: ir.Graph, node: ir.Node, index: int, pieces: Sequence[ir.Value], cut: Cut) -> None:
    name = f"{node.outputs[0].name}.{index}.joined"
    joined = ir.Node("", "Concat", pieces, [ir.AttrInt64("axis", cut.axis)], name=name)
    joined.outputs[0].type, joined.outputs[0].shape = pieces[0].type, node.inputs[index].shape  # type: ignore[union-attr]
    joined.outputs[0].name = name
    joined.meta[AFTER] = next((one for one in node.inputs if one is not None and one.producer() is not None), None)
    graph.insert_before(node, joined)
    node.replace_input_with(index, joined.outputs[0])


def _multiply(graph: ir.Graph, node: ir.Node, index: int, pieces: Sequence[ir.Value], axis: int) -> bool:
    """Put products with the pieces in the place of a Gemm; return False where it is none that can be cut."""
    if node.op_type != "Gemm" or index != 1:
        return False
    a, _, *rest = node.inputs
    shapes = [one.shape for one in (a, *rest, node.outputs[0]) if one is not None]
    if a is None or any(shape is None for shape in shapes):
        return False
    product = _Product(graph, node, a, rest[0] if rest else None, pieces)
    result = product.summed(axis) if product.sums_over(axis) else product.side_by_side(axis)
    output = node.outputs[0]
    if output.is_graph_output():
        result.name, output.name = output.name, f"{output.name}.whole"
    ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True


@dataclass(frozen=True, slots=True)
class _Product:
    """A Gemm and the pieces of its B."""

    graph: ir.Graph
    node: ir.Node
    a: ir.Value  # [rows, summed over], or the other way round
    c: ir.Value | None
    pieces: Sequence[ir.Value]

    def sums_over(self, axis: int) -> bool:
        """Return whether B's ``axis`` is what the product sums over."""
        return axis == (1 if self._is_on("transB") else 0)

    def summed(self, axis: int) -> ir.Value:
        """Return the sum of the products of A's columns with the pieces."""
        along, sums, start = (0 if self._is_on("transA") else 1), self.c, 0
        for i, piece in enumerate(self.pieces):
            columns = self._part(self.a, along, start, start := start + _length(piece, axis), f"a{i}")
            previous = None if i == 0 else sums
            sums = self._gemm(columns, piece, sums, i, width=self._width, after=previous)
        if sums is None:
            raise LocalProtocolError(f"{self.node.name}: a weight was cut into no pieces")
        return sums

    def side_by_side(self, axis: int) -> ir.Value:
        """Return the products with the pieces, joined along the last axis."""
        found: list[ir.Value] = []
        start = 0
        for i, piece in enumerate(self.pieces):
            width = _length(piece, axis)
            c = self.c
            if c is not None and len(_shape(c)) > 0 and _length(c, -1) != 1:  # else it is added to every column
                c = self._part(c, len(_shape(c)) - 1, start, start + width, f"c{i}")
            found.append(self._gemm(self.a, piece, c, i, width=width, after=found[-1] if found else None))
            start += width
        return self._put("Concat", found, self._rows_by(self._width), [ir.AttrInt64("axis", 1)], "joined")

    @property
    def _width(self) -> int:
        return _length(self.node.outputs[0], 1)

    def _is_on(self, name: str) -> bool:
        found = self.node.attributes.get(name)
        return found is not None and found.as_int() == 1

    def _rows_by(self, width: int) -> ir.Shape:
        return ir.Shape([_shape(self.node.outputs[0])[0], width])

    def _gemm(
        self, a: ir.Value, piece: ir.Value, c: ir.Value | None, i: int, *, width: int, after: ir.Value | None
    ) -> ir.Value:
        """Return one product. Its factors are the whole one's; of C that is a sum so far, ``after``, it takes all."""
        attributes = [one for name, one in self.node.attributes.items() if name != "beta" or c is not after]
        inputs = [a, piece, *([] if c is None else [c])]
        result = self._put("Gemm", inputs, self._rows_by(width), attributes, str(i))
        gemm = result.producer()
        if gemm is not None and after is not None:
            gemm.meta[AFTER] = after
        return result

    def _part(self, value: ir.Value, axis: int, start: int, end: int, label: str) -> ir.Value:
        """Return ``value`` from ``start`` to ``end`` along an axis."""
        constant = value.const_value
        if constant is not None:
            values = np.ascontiguousarray(np.take(constant.numpy(), range(start, end), axis))
            return once(self.graph, f"{value.name}.{start}_{end}", values)
        ends = [once(self.graph, f"at_{n}", np.array([n], np.int64)) for n in (start, end, axis)]
        sizes = [*_shape(value)[:axis], end - start, *_shape(value)[axis + 1 :]]
        return self._put("Slice", [value, *ends], ir.Shape(sizes), [], label)

    def _put(
        self, kind: str, inputs: Sequence[ir.Value], shape: ir.Shape, attributes: Sequence[ir.Attr], label: str
    ) -> ir.Value:
        node = ir.Node("", kind, inputs, attributes, name=f"{self.node.outputs[0].name}.{label}")
        output = node.outputs[0]
        output.name, output.type, output.shape = node.name, self.node.outputs[0].type, shape
        self.graph.insert_before(self.node, node)
        return output


def _shape(value: ir.Value) -> ir.Shape:
    if value.shape is None:  # ``_multiply`` looked at it before anything was changed
        raise LocalProtocolError(f"{value.name}: its shape was lost")
    return value.shape


def _length(value: ir.Value, axis: int) -> int:
    size = _shape(value)[axis]
    if not isinstance(size, int):  # a weight's axis, or what it is multiplied or added along
        raise LocalProtocolError(f"{value.name}: axis {axis} of a product with a weight has no fixed size")
    return size
