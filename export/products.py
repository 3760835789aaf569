"""Pass: matrix products take their transposes, factors and sums with them.

``MatMul(a, Transpose(w))`` makes a runtime fold a second copy of the frozen ``w`` into private memory; a factor or a sum
beside a product is one more walk over memory. ``Gemm`` has all of them as arguments:
alpha * op(A) op(B) + beta * C, and reads the one mapped ``w`` for the forward and for the backward.

Laws: exact up to the rounding of one multiplication; two-dimensional products of float32 only; no value that someone
else reads is removed; running it twice changes nothing more.
"""

from dataclasses import dataclass, replace

import onnx_ir as ir

__all__ = ["absorb"]


@dataclass(frozen=True, slots=True)
class _Product:
    """The arguments of one Gemm."""

    a: ir.Value
    b: ir.Value
    c: ir.Value | None = None
    trans_a: bool = False
    trans_b: bool = False
    alpha: float = 1.0
    beta: float = 1.0


def absorb(graph: ir.Graph) -> int:
    """Rewrite every 2-D product of the graph as a Gemm that has absorbed its neighbours; return how many there are.

    Requires: shapes on the values (``lower`` leaves them).
    Ensures: the same outputs; what became unused is removed.
    """
    n_products = 0
    for node in list(graph):
        if node.graph is None:
            continue
        product = _read(node)
        if product is None:
            continue
        n_products += 1
        _absorb_one(graph, node, product)
    _remove_unused(graph)
    return n_products


def _absorb_one(graph: ir.Graph, node: ir.Node, product: _Product) -> None:
    product = _operands(graph, product)
    gemm = _write(graph, node, product)
    while True:
        step = _after(graph, gemm, product)
        if step is None:
            return
        gemm, product = step


def _read(node: ir.Node) -> _Product | None:
    if node.op_type == "Gemm":
        a, b, *rest = node.inputs
        number = {name: attribute.value for name, attribute in node.attributes.items()}
        return _Product(
            a,
            b,
            rest[0] if rest else None,
            bool(number.get("transA", 0)),
            bool(number.get("transB", 0)),
            float(number.get("alpha", 1.0)),
            float(number.get("beta", 1.0)),
        )
    if node.op_type == "MatMul" and all(_rank(value) == 2 for value in node.inputs):  # noqa: PLR2004
        return _Product(node.inputs[0], node.inputs[1])
    return None


def _write(graph: ir.Graph, at: ir.Node, product: _Product) -> ir.Node:
    """Put a Gemm in the place of the node ``at``, whose output it takes over."""
    inputs = [product.a, product.b] + ([product.c] if product.c is not None else [])
    attributes = []
    for name, value in (("transA", product.trans_a), ("transB", product.trans_b)):
        if value:
            attributes.append(ir.AttrInt64(name, 1))
    for name, value in (("alpha", product.alpha), ("beta", product.beta)):
        if value != 1.0:
            attributes.append(ir.AttrFloat32(name, value))
    old = at.outputs[0]
    gemm = ir.Node("", "Gemm", inputs, attributes, name=at.name)
    _like(gemm.outputs[0], old, old.shape)
    graph.insert_before(at, gemm)
    _replace(old, gemm.outputs[0])
    graph.remove(at, safe=True)
    return gemm


def _operands(graph: ir.Graph, product: _Product) -> _Product:
    """Take transposes and constant factors out of A and B."""
    while True:
        a, flip_a, factor_a = _source(graph, product.a)
        b, flip_b, factor_b = _source(graph, product.b)
        if a is product.a and b is product.b:
            return product
        product = replace(
            product,
            a=a,
            b=b,
            trans_a=product.trans_a ^ flip_a,
            trans_b=product.trans_b ^ flip_b,
            alpha=product.alpha * factor_a * factor_b,
        )


def _source(graph: ir.Graph, value: ir.Value) -> tuple[ir.Value, bool, float]:
    """Return (x, flipped, factor) with value = factor * op(x), one step nearer to the inputs; x is value at the end."""
    node = value.producer()
    if node is None or value.const_value is not None:
        return value, False, 1.0
    if node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == [1, 0]:
        return node.inputs[0], True, 1.0
    scaled = _scaled(node)
    if scaled is not None and _same_shape(scaled[0], value):
        return scaled[0], False, scaled[1]
    inner = node.inputs[0].producer() if node.op_type == "Reshape" else None
    scaled = _scaled(inner) if inner is not None else None
    if scaled is not None and _same_shape(scaled[0], inner.outputs[0]):
        reshape = ir.Node("", "Reshape", [scaled[0], node.inputs[1]], list(node.attributes.values()))
        _like(reshape.outputs[0], value, value.shape)
        graph.insert_before(node, reshape)
        return reshape.outputs[0], False, scaled[1]
    return value, False, 1.0


def _after(graph: ir.Graph, gemm: ir.Node, product: _Product) -> tuple[ir.Node, _Product] | None:
    """Absorb the one operation that reads the product, through a reshape if there is one; None: nothing to absorb."""
    value, reshape = gemm.outputs[0], None
    reader = _only_reader(value)
    if reader is not None and reader.op_type == "Reshape":
        value, reshape = reader.outputs[0], reader
        reader = _only_reader(value)
    if reader is None:
        return None
    scaled = _scaled(reader)
    if scaled is not None and scaled[0] is value and _same_shape(value, reader.outputs[0]):
        changed = replace(product, alpha=product.alpha * scaled[1], beta=product.beta * scaled[1])
        return _move(graph, gemm, reshape, reader, changed), changed
    if reader.op_type != "Add" or product.c is not None:
        return None
    other = next((v for v in reader.inputs if v is not value), None)
    if other is None or not (_same_shape(other, value) and _same_shape(value, reader.outputs[0])):
        return None
    if reshape is not None:
        other = _reshaped_like(graph, other, gemm.outputs[0], reader)
        if other is None:
            return None
    changed = replace(product, c=other, beta=1.0)
    return _move(graph, gemm, reshape, reader, changed), changed


def _move(graph: ir.Graph, gemm: ir.Node, reshape: ir.Node | None, reader: ir.Node, product: _Product) -> ir.Node:
    """Let the product (and its reshape) stand where ``reader`` stood."""
    inputs = [product.a, product.b] + ([product.c] if product.c is not None else [])
    flags = [ir.AttrInt64(n, 1) for n, on in (("transA", product.trans_a), ("transB", product.trans_b)) if on]
    factors = [
        ir.AttrFloat32(n, x)
        for n, x in (("alpha", product.alpha), ("beta", product.beta))
        if x != 1.0 and (n == "alpha" or product.c is not None)
    ]
    new = ir.Node("", "Gemm", inputs, flags + factors, name=gemm.name)
    _like(new.outputs[0], gemm.outputs[0], gemm.outputs[0].shape)
    graph.insert_before(reader, new)
    result = new.outputs[0]
    if reshape is not None:
        shaped = ir.Node("", "Reshape", [result, reshape.inputs[1]], list(reshape.attributes.values()))
        _like(shaped.outputs[0], reshape.outputs[0], reshape.outputs[0].shape)
        graph.insert_before(reader, shaped)
        result = shaped.outputs[0]
    _replace(reader.outputs[0], result)
    graph.remove(reader, safe=True)
    if reshape is not None:
        graph.remove(reshape, safe=True)
    graph.remove(gemm, safe=True)
    return new


def _reshaped_like(graph: ir.Graph, value: ir.Value, model: ir.Value, before: ir.Node) -> ir.Value | None:
    """Return ``value`` [.., n] as two axes [rows, n] like ``model``; None where n is no constant."""
    node = value.producer()
    if node is not None and node.op_type == "Reshape" and _same_shape(node.inputs[0], model):
        return node.inputs[0]
    width = model.shape[1] if model.shape is not None else None
    if not isinstance(width, int):
        return None
    sizes = _constant(graph, f"rows_of_{width}", [-1, width])
    reshape = ir.Node("", "Reshape", [value, sizes])
    _like(reshape.outputs[0], model, model.shape)
    graph.insert_before(before, reshape)
    return reshape.outputs[0]


def _constant(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    if name not in graph.initializers:
        tensor = ir.tensor(numbers, dtype=ir.DataType.INT64, name=name)
        graph.initializers[name] = ir.Value(
            name=name, shape=ir.Shape([len(numbers)]), type=ir.TensorType(ir.DataType.INT64), const_value=tensor
        )
    return graph.initializers[name]


def _scaled(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return (x, factor) if the node multiplies x by one constant number."""
    if node.op_type != "Mul":
        return None
    for value, other in (node.inputs, node.inputs[::-1]):
        if other.const_value is not None and other.const_value.size == 1 and value.const_value is None:
            return value, float(other.const_value.numpy().reshape(-1)[0])
    return None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _same_shape(left: ir.Value, right: ir.Value) -> bool:
    return left.shape is not None and right.shape is not None and list(left.shape) == list(right.shape)


def _like(value: ir.Value, model: ir.Value, shape: ir.Shape | None) -> None:
    value.dtype = model.dtype
    value.shape = shape


def _replace(old: ir.Value, new: ir.Value) -> None:
    if old.is_graph_output():  # outputs are known to the engine by their names
        new.name, old.name = old.name, f"{old.name}_replaced"
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _remove_unused(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name in [n for n, v in graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
        del graph.initializers[name]
