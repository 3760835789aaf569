"""Pass: matrix products take their transposes, factors and sums with them.

``MatMul(a, Transpose(w))`` makes a runtime fold a second copy of the frozen ``w`` into private memory; a factor or a
sum beside a product is one more walk over memory. ``Gemm`` has all of them as arguments:
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
        a, b, *rest = _inputs(node)
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
    if node.op_type == "MatMul" and all(_rank(value) == 2 for value in _inputs(node)):
        a, b = _inputs(node)
        return _Product(a, b)
    return None


def _gemm(product: _Product, output: ir.Value, name: str | None) -> ir.Node:
    """Return the product as a node; ``output`` lends type and shape."""
    inputs = [product.a, product.b] + ([product.c] if product.c is not None else [])
    attributes = [ir.AttrInt64(n, 1) for n, on in (("transA", product.trans_a), ("transB", product.trans_b)) if on]
    if product.alpha != 1.0:
        attributes.append(ir.AttrFloat32("alpha", product.alpha))
    if product.beta != 1.0 and product.c is not None:
        attributes.append(ir.AttrFloat32("beta", product.beta))
    return _like(ir.Node("", "Gemm", inputs, attributes, name=name), output)


def _write(graph: ir.Graph, at: ir.Node, product: _Product) -> ir.Node:
    """Put a Gemm in the place of the node ``at``."""
    gemm = _gemm(product, at.outputs[0], at.name)
    graph.insert_before(at, gemm)
    _replace(at.outputs[0], gemm.outputs[0])
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
    source = _inputs(node)[0]
    if node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == [1, 0]:
        return source, True, 1.0
    scaled = _scaled(node)
    if scaled is not None:
        return scaled[0], False, scaled[1]
    inner = source.producer() if node.op_type == "Reshape" else None
    scaled = _scaled(inner) if inner is not None else None
    if scaled is not None:
        reshape = _like(ir.Node("", "Reshape", [scaled[0], node.inputs[1]], list(node.attributes.values())), value)
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
    if scaled is not None and scaled[0] is value:
        changed = replace(product, alpha=product.alpha * scaled[1], beta=product.beta * scaled[1])
        return _move(graph, gemm, reshape, reader, changed), changed
    if reader.op_type != "Add" or product.c is not None:
        return None
    other = next((v for v in _inputs(reader) if v is not value), None)
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
    new = _gemm(product, gemm.outputs[0], gemm.name)
    graph.insert_before(reader, new)
    result = new.outputs[0]
    if reshape is not None:
        inputs = [result, reshape.inputs[1]]
        shaped = _like(ir.Node("", "Reshape", inputs, list(reshape.attributes.values())), reshape.outputs[0])
        graph.insert_before(reader, shaped)
        result = shaped.outputs[0]
    _replace(reader.outputs[0], result)
    for node in (reader, reshape, gemm):  # readers before what they read
        if node is not None:
            graph.remove(node, safe=True)
    return new


def _reshaped_like(graph: ir.Graph, value: ir.Value, model: ir.Value, before: ir.Node) -> ir.Value | None:
    """Return ``value`` [.., n] as two axes [rows, n] like ``model``; None where n is no constant."""
    node = value.producer()
    if node is not None and node.op_type == "Reshape" and _same_shape(_inputs(node)[0], model):
        return _inputs(node)[0]
    width = model.shape[1] if model.shape is not None else None
    if not isinstance(width, int):
        return None
    sizes = _constant(graph, f"rows_of_{width}", [-1, width])
    reshape = _like(ir.Node("", "Reshape", [value, sizes]), model)
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
    """Return (x, factor) if the node multiplies x by one constant number and keeps its shape."""
    if node.op_type != "Mul":
        return None
    left, right = _inputs(node)
    for value, factor in ((left, right), (right, left)):
        constant = factor.const_value
        if constant is not None and constant.size == 1 and value.const_value is None:
            return (value, float(constant.numpy().reshape(-1)[0])) if _same_shape(value, node.outputs[0]) else None
    return None


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _same_shape(left: ir.Value, right: ir.Value) -> bool:
    return left.shape is not None and right.shape is not None and list(left.shape) == list(right.shape)


def _like(node: ir.Node, model: ir.Value) -> ir.Node:
    """Return ``node``, its output typed and shaped like ``model``."""
    node.outputs[0].type, node.outputs[0].shape = model.type, model.shape
    return node


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
