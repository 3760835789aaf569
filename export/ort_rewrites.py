"""Rewrites of a forward graph that onnxruntime-training would derive wrongly, or not at all, as it is.

onnxruntime 1.19's gradients: a name follows from the input's name, so what reads one value twice defines one name
twice; of a split it joins the gradients that there are, whatever parts have none; a normalisation by kept statistics it
takes for one by the batch's own. Of two values that are added it sums the gradient of the smaller only where it knows
that it is smaller, so the shapes that the trace knew stay noted. The rewritten graph computes the same.

Laws: changes the graph in place and nothing else; needs ``onnx`` and numpy alone, since it runs in the engine's own
environment.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["make_derivable"]

_EPSILON = 1e-5  # of the standard, where a node does not say


def make_derivable(graph: onnx.GraphProto) -> None:
    """Rewrite ``graph``, whose first output is the loss."""
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(graph.node):
        if node.op_type == "LayerNormalization":
            _own_inputs(graph, node, number)
        if node.op_type == "Concat":
            nodes += _own_parts(node, number)
        if node.op_type == "BatchNormalization":
            nodes += _written_out(graph, node, ranks[node.input[0]])
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    _let_all_parts_count(graph)
    read = {name for node in graph.node for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    shapes = [value for value in graph.value_info if value.name in read]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(tensors)
    graph.value_info.extend(shapes)


def _own_inputs(graph: onnx.GraphProto, node: onnx.NodeProto, number: int) -> None:
    """Give a normalisation its own scale and shift, and the outputs that its gradient reads."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for i in range(1, len(node.input)):
        if node.input[i] in tensors:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensors[node.input[i]])
            copy.name = node.input[i] = f"{node.input[i]}__{number}"
            graph.initializer.append(copy)
    while len(node.output) < 3:  # value, mean, inverse deviation
        node.output.append(f"{node.output[0]}__{len(node.output)}")


def _own_parts(node: onnx.NodeProto, number: int) -> list[onnx.NodeProto]:
    """Return what gives a join of a value with itself, as of two tokens that are both zeros, a name for each part."""
    before = []
    for i, name in enumerate(node.input):
        if name in node.input[:i]:
            before.append(helper.make_node("Identity", [name], [f"{name}__{number}_{i}"]))
            node.input[i] = before[-1].output[0]
    return before


def _written_out(graph: onnx.GraphProto, node: onnx.NodeProto, rank: int) -> list[onnx.NodeProto]:
    """Return a normalisation of [batch, channel, ...] by kept statistics as arithmetic."""
    x, scale, shift, mean, variance = node.input
    out = node.output[0]
    epsilon = next((one.f for one in node.attribute if one.name == "epsilon"), _EPSILON)
    column = np.array([-1, *[1] * (rank - 2)], np.int64)  # [channel, 1, ...]
    graph.initializer.append(numpy_helper.from_array(np.array(epsilon, np.float32), f"{out}__epsilon"))
    graph.initializer.append(numpy_helper.from_array(column, f"{out}__column"))
    nodes = [
        helper.make_node("Add", [variance, f"{out}__epsilon"], [f"{out}__variance"]),
        helper.make_node("Sqrt", [f"{out}__variance"], [f"{out}__deviation"]),
        helper.make_node("Div", [scale, f"{out}__deviation"], [f"{out}__factor"]),
    ]
    columns = {"factors": f"{out}__factor", "means": mean, "shifts": shift}
    nodes += [helper.make_node("Reshape", [one, f"{out}__column"], [f"{out}__{name}"]) for name, one in columns.items()]
    return [
        *nodes,
        helper.make_node("Sub", [x, f"{out}__means"], [f"{out}__centred"]),
        helper.make_node("Mul", [f"{out}__centred", f"{out}__factors"], [f"{out}__scaled"]),
        helper.make_node("Add", [f"{out}__scaled", f"{out}__shifts"], [out]),
    ]


def _let_all_parts_count(graph: onnx.GraphProto) -> None:
    """Let the loss read, times zero, what nobody reads of a split: a part of the adapter that the model has idle.

    onnxruntime joins the gradients of the parts that have one, so that all behind a part without one would be moved.
    """
    read = {name for node in graph.node for name in node.input}
    idle = [name for node in graph.node if node.op_type == "Split" for name in node.output if name not in read]
    if not idle:
        return
    loss = graph.output[0].name
    producer = next(node for node in graph.node if loss in node.output)
    producer.output[list(producer.output).index(loss)] = so_far = f"{loss}__0"
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "idle__zero"))
    for number, name in enumerate(idle):
        total, nothing, last = f"{name}__sum", f"{name}__zero", number == len(idle) - 1
        after = loss if last else f"{loss}__{number + 1}"
        graph.node.append(helper.make_node("ReduceSum", [name], [total], keepdims=0))
        graph.node.append(helper.make_node("Mul", [total, "idle__zero"], [nothing]))
        graph.node.append(helper.make_node("Add", [so_far, nothing], [after]))
        so_far = after
