"""Pass: weights that ``quantise`` prepared are stored as their codes, and widened where they are read.

Each reader gets a ``DequantizeLinear`` (or ``Cast``, for float16) of its own, right before it, so that a weight in
float32 lives only as long as one product; the codes are stored once for the forward, the backward and the evaluation.

Laws: standard operators only; blocks of scales and 4-bit codes need opset 21 and ask for it, everything else stays at
the opset of ``lower``; the values are exactly those in the model. Scales have another name at each reader: a runtime
that merges equal operations would otherwise keep the widened weight from the forward to the backward.

``MatMulNBits`` (com.microsoft) was measured and not taken: at 1024 rows it was no faster than ``DequantizeLinear`` and
``Gemm``, it cannot multiply by the transposed weight from the same codes, and it is no standard operator.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.quantise import LEAST_BYTES, Stored, Table, key_of

__all__ = ["BLOCK_OPSET", "store"]

BLOCK_OPSET = 21  # the first whose DequantizeLinear takes blocks and 4-bit codes
_TYPES = {4: ir.DataType.INT4, 8: ir.DataType.INT8, 16: ir.DataType.FLOAT16}


def store(model: ir.Model, table: Table) -> int:
    """Store every weight of the table that the graph reads; return how many there were.

    Requires: a model as ``products.absorb`` leaves it, weights inside.
    Ensures: the same function.
    """
    graph, n_stored = model.graph, 0
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.nbytes < LEAST_BYTES:
            continue
        stored = _stored(table, tensor.numpy())
        if stored is None:
            continue
        codes = _initializer(graph, f"{name}.codes", ir.Tensor(_as_dtype(stored), dtype=_TYPES[stored.bits]))
        for number, use in enumerate(list(value.uses())):
            _widen(graph, stored, codes, value, use.node, use.idx, f"{name}.{number}")
        del graph.initializers[name]
        n_stored += 1
        if stored.block is not None:
            model.opset_imports[""] = BLOCK_OPSET
    return n_stored


def _stored(table: Table, values: NDArray[np.float32]) -> Stored | None:
    """Return how a weight is stored, either way round; None: it is no weight that was prepared."""
    found = table.get(key_of(values))
    if found is None and values.ndim == 2:
        found = table.get(key_of(np.ascontiguousarray(values.T)))
        return None if found is None else found.transposed
    return found


def _as_dtype(stored: Stored) -> np.ndarray:
    return stored.codes if stored.bits != 4 else stored.codes.astype(ir.DataType.INT4.numpy())


def _widen(  # noqa: PLR0913, PLR0917 - what is read, by whom, and what to call it
    graph: ir.Graph, stored: Stored, codes: ir.Value, value: ir.Value, reader: ir.Node, index: int, name: str
) -> None:
    """Let ``reader`` read the widened codes."""
    if reader.op_type == "Gather" and index == 0 and stored.block is None and stored.axis == 0 and _axis(reader) == 0:
        _widen_rows(graph, stored, codes, reader, name)
        return
    if stored.scales is None:
        node = ir.Node("", "Cast", [codes], [ir.AttrInt64("to", ir.DataType.FLOAT.value)], name=f"{name}.widen")
    else:
        attributes = [ir.AttrInt64("axis", stored.axis)]
        if stored.block is not None:
            attributes.append(ir.AttrInt64("block_size", stored.block))
        scales = _initializer(graph, f"{name}.scales", ir.tensor(stored.scales))
        node = ir.Node("", "DequantizeLinear", [codes, scales], attributes, name=f"{name}.widen")
    _typed(node, value.shape, f"{name}.wide")
    graph.insert_before(reader, node)
    reader.replace_input_with(index, node.outputs[0])


def _widen_rows(graph: ir.Graph, stored: Stored, codes: ir.Value, gather: ir.Node, name: str) -> None:
    """Read the rows of an embedding first and widen those alone."""
    result, indices = gather.outputs[0], gather.inputs[1]
    rows = ir.Node("", "Gather", [codes, indices], [ir.AttrInt64("axis", 0)], name=f"{name}.rows")
    rows.outputs[0].name, rows.outputs[0].shape, rows.outputs[0].type = f"{name}.rows", result.shape, codes.type
    wide = ir.Node("", "Cast", [rows.outputs[0]], [ir.AttrInt64("to", ir.DataType.FLOAT.value)], name=f"{name}.cast")
    nodes = [rows, _typed(wide, result.shape, f"{name}.cast")]
    if stored.scales is not None:
        scales = _initializer(graph, f"{name}.scales", ir.tensor(stored.scales.reshape(-1, 1)))
        factor = ir.Node("", "Gather", [scales, indices], [ir.AttrInt64("axis", 0)], name=f"{name}.factor")
        shape = None if result.shape is None else _one_wide(result.shape)
        product = ir.Node("", "Mul", [wide.outputs[0], factor.outputs[0]], name=f"{name}.widen")
        nodes += [_typed(factor, shape, f"{name}.factor"), _typed(product, result.shape, f"{name}.wide")]
    for node in nodes:
        graph.insert_before(gather, node)
    ir.convenience.replace_all_uses_with(result, nodes[-1].outputs[0])
    graph.remove(gather, safe=True)


def _one_wide(shape: ir.Shape) -> ir.Shape:
    sizes: list[int | ir.SymbolicDim] = [d if isinstance(d, int) else ir.SymbolicDim(d.value) for d in shape]
    return ir.Shape([*sizes[:-1], 1])


def _axis(node: ir.Node) -> int:
    attribute = node.attributes.get("axis")
    return 0 if attribute is None else attribute.as_int()


def _typed(node: ir.Node, shape: ir.Shape | None, name: str) -> ir.Node:
    output = node.outputs[0]
    output.name, output.shape, output.type = name, shape, ir.TensorType(ir.DataType.FLOAT)
    return node


def _initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.initializers[name] = value
    return value
