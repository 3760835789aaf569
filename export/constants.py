"""Constants that a pass puts into a graph as initializers."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["initializer", "once"]


def initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Return a new initializer of the graph."""
    value = ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.initializers[name] = value
    return value


def once(graph: ir.Graph, name: str, values: NDArray[np.generic]) -> ir.Value:
    """Return a constant that all who ask by this name share."""
    return graph.initializers[name] if name in graph.initializers else initializer(graph, name, ir.tensor(values))
