"""Pass: weights that ``quantise`` prepared are stored as their codes, and widened where they are read.

Each reader gets operations of its own, right before it, so that a weight in float32 lives only as long as one product;
the codes are stored once for the forward, the backward and the evaluation, in one orientation: a product that wants the
other one takes its transpose as an argument.

    int8, nb8   DequantizeLinear(codes [blocks, width], a scale a row) -> Reshape
    nb4         Concat(bytes, BitShift(bytes, 4)) -> DequantizeLinear -> Reshape
    fp16        Cast

A weight must not be widened before the activation is there that it meets. To a runtime the widening of every weight is
ready at the start, and onnxruntime ran 42 of them one after the other, 76 MB, at the first operation that its own
fusions had moved to the end of its list. So the scales (in 4 bits: the number of places to shift by) go through a
Reshape to [-1], and that -1 is made from a size of the activation.

Laws: standard operators only, at the opset of ``lower``; the values are exactly those in the model. Scales have another
name at each reader: a runtime that merges equal operations would otherwise keep the widened weight from the forward to
the backward.

``MatMulNBits`` (com.microsoft) was measured and not taken (docs/adr/0026): it cannot multiply by the transposed weight
from the same codes, it is fast only with a private packed copy of them, and it is no standard operator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.constants import initializer, once
from export.in_time import minus_one
from export.pieces import AFTER, picks_rows
from export.quantise import LEAST_BYTES, MIDDLE, Cut, Stored, Table, stored_as

__all__ = ["store"]

_TYPES = {4: ir.DataType.UINT8, 8: ir.DataType.INT8, 16: ir.DataType.FLOAT16}


def store(model: ir.Model, table: Table) -> int:
    """Store every weight of the table that the graph reads; return how many there were.

    Requires: a model as ``pieces.cut_products`` leaves it, weights inside.
    Ensures: the same function.
    """
    graph, n_stored = model.graph, 0
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.nbytes < LEAST_BYTES:
            continue
        stored = stored_as(table, tensor.numpy())
        stored = stored.whole if isinstance(stored, Cut) else stored
        if stored is None:
            continue
        codes = initializer(graph, f"{name}.codes", ir.Tensor(stored.codes, dtype=_TYPES[stored.bits]))
        for number, use in enumerate(list(value.uses())):
            _Reader(graph, stored, codes, use.node, use.idx, f"{name}.{number}").widen()
        del graph.initializers[name]
        n_stored += 1
    return n_stored


@dataclass(frozen=True, slots=True)
class _Reader:
    """One input of one operation that reads a stored weight."""

    graph: ir.Graph
    stored: Stored
    codes: ir.Value
    node: ir.Node
    index: int
    name: str

    def widen(self) -> None:
        """Let the operation read the widened codes."""
        if self._reads_rows():
            self._widen_rows()
            return
        matrix = self._cast() if self.stored.scales is None else self._scaled(self.stored.scales)
        if self.stored.is_turned and not self._turn():
            matrix = self._put("Transpose", [matrix], self.stored.shape[::-1], [ir.AttrInt64s("perm", [1, 0])])
        self.node.replace_input_with(self.index, matrix)

    def _cast(self) -> ir.Value:
        return self._put("Cast", [self.codes], self.stored.shape, [_TO_FLOAT])

    def _scaled(self, scales: NDArray[np.float32]) -> ir.Value:
        blocks = (len(scales), self.stored.codes.shape[1])
        scale = initializer(self.graph, f"{self.name}.scales", ir.tensor(scales))
        if self.stored.bits == 4:
            middle = once(self.graph, f"middle_{blocks[0]}", np.full(blocks[0], MIDDLE, np.uint8))
            inputs = [self._unpacked(blocks), scale, middle]
        else:
            inputs = [self.codes, self._in_time(scale)]
        wide = self._put("DequantizeLinear", inputs, blocks, [ir.AttrInt64("axis", 0)])
        if blocks == self.stored.shape:
            return wide
        sizes = once(self.graph, "sizes_" + "x".join(map(str, self.stored.shape)), np.array(self.stored.shape))
        return self._put("Reshape", [wide, sizes], self.stored.shape)

    def _unpacked(self, blocks: tuple[int, int]) -> ir.Value:
        """Return the bytes of pairs, and below them their lower halves moved up."""
        four = self._in_time(once(self.graph, "four", np.array([4], np.uint8)))
        half, kind = (blocks[0] // 2, blocks[1]), ir.DataType.UINT8
        moved = self._put("BitShift", [self.codes, four], half, [ir.AttrString("direction", "LEFT")], kind)
        return self._put("Concat", [self.codes, moved], blocks, [ir.AttrInt64("axis", 0)], kind)

    def _in_time(self, constant: ir.Value) -> ir.Value:
        """Return a constant of one axis once the activation is there that the reader multiplies."""
        for value in (self.node.meta.get(AFTER), *self.node.inputs):
            if value is None or value.const_value is not None or value.shape is None or value.producer() is None:
                continue
            free = [axis for axis, size in enumerate(value.shape) if not isinstance(size, int)]
            if free:  # a size that the runtime knows beforehand would be no reason to wait
                least = minus_one(self.graph, value, free[0])
                return self._put(
                    "Reshape", [constant, least], constant.shape, dtype=constant.dtype or ir.DataType.FLOAT, label="now"
                )
        return constant

    def _turn(self) -> bool:
        """Let a product take the other orientation; return whether the reader is one that can."""
        if self.node.op_type != "Gemm" or self.index > 1:
            return False
        name = "transA" if self.index == 0 else "transB"
        before = self.node.attributes.get(name)
        self.node.attributes[name] = ir.AttrInt64(name, 1 if before is None else 1 - before.as_int())
        return True

    def _reads_rows(self) -> bool:
        """Return whether the reader picks whole rows, each with one scale: an embedding."""
        is_by_row = not self.stored.is_turned and self.stored.codes.shape == self.stored.shape
        return is_by_row and picks_rows(self.node, self.index)

    def _widen_rows(self) -> None:
        """Read the rows of an embedding first and widen those alone."""
        result, indices = self.node.outputs[0], self.node.inputs[1]
        kind, axis = _TYPES[self.stored.bits], [ir.AttrInt64("axis", 0)]
        rows = self._put("Gather", [self.codes, indices], result.shape, axis, kind)
        wide = self._put("Cast", [rows], result.shape, [_TO_FLOAT])
        if self.stored.scales is not None:
            column = self.stored.scales.reshape(-1, 1)
            scales = initializer(self.graph, f"{self.name}.scales", ir.tensor(column))
            shape = None if result.shape is None else _one_wide(result.shape)
            factor = self._put("Gather", [scales, indices], shape, axis, label="factor")
            wide = self._put("Mul", [wide, factor], result.shape)
        ir.convenience.replace_all_uses_with(result, wide)
        self.graph.remove(self.node, safe=True)

    def _put(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        shape: "ir.Shape | tuple[int, ...] | None",
        attributes: list[ir.Attr] | None = None,
        dtype: ir.DataType = ir.DataType.FLOAT,
        label: str | None = None,
    ) -> ir.Value:
        """Insert an operation before the reader and return what it gives."""
        name = f"{self.name}.{label or kind.lower()}"
        node = ir.Node("", kind, inputs, attributes or [], name=name)
        output = node.outputs[0]
        output.name, output.type = name, ir.TensorType(dtype)
        output.shape = ir.Shape(shape) if isinstance(shape, tuple) else shape
        self.graph.insert_before(self.node, node)
        return output


_TO_FLOAT = ir.AttrInt64("to", ir.DataType.FLOAT.value)


def _one_wide(shape: ir.Shape) -> ir.Shape:
    sizes: list[int | ir.SymbolicDim] = [d if isinstance(d, int) else ir.SymbolicDim(d.value) for d in shape]
    return ir.Shape([*sizes[:-1], 1])
