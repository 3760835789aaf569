"""The operators that a bundle's graphs may have; any other is refused before a runtime sees the graph.

The standard list is what the exports that were looked at emit, and the plain arithmetic beside it.
Whoever makes a family that needs another operator adds it here, after reading what it does: it must be a function of
its input tensors alone. So there are no loops, branches and sequences (unbounded time and memory), no random numbers
(the plan's seed decides), and no strings, images or optional values (parsers). ``MatMulNBits`` is not here since no
export emits it (``export/storage.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

__all__ = ["ALLOWED", "Operators"]

Operators: TypeAlias = Mapping[str, frozenset[str]]  # by domain; the standard one is ""

_STANDARD: Final = frozenset(
    {
        "Abs",
        "Add",
        "And",
        "ArgMax",
        "ArgMin",
        "AveragePool",
        "BatchNormalization",
        "BitShift",
        "Cast",
        "CastLike",
        "Ceil",
        "Clip",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Conv",
        "ConvTranspose",
        "Cos",
        "CumSum",
        "DequantizeLinear",
        "Div",
        "Einsum",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gelu",
        "Gemm",
        "GlobalAveragePool",
        "Greater",
        "GreaterOrEqual",
        "GroupNormalization",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "InstanceNormalization",
        "IsInf",
        "IsNaN",
        "LayerNormalization",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "LogSoftmax",
        "MatMul",
        "Max",
        "MaxPool",
        "Min",
        "Mish",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pad",
        "Pow",
        "QuantizeLinear",
        "RMSNormalization",
        "Range",
        "Reciprocal",
        "ReduceL2",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Round",
        "ScatterElements",
        "ScatterND",
        "Shape",
        "Sigmoid",
        "Sign",
        "Sin",
        "Slice",
        "Softmax",
        "Softplus",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Swish",
        "Tan",
        "Tanh",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
        "Xor",
    }
)
# What onnxruntime-training writes for those and for their gradients.
_GRADIENTS: Final = frozenset(
    {
        "ConcatTraining",
        "FastGelu",
        "FastGeluGrad",
        "FusedMatMul",
        "GatherElementsGrad",
        "GatherGrad",
        "GeluGrad",
        "InPlaceAccumulatorV2",
        "LayerNormalizationGrad",
        "LogSoftmaxGrad_13",
        "QuickGelu",
        "QuickGeluGrad",
        "ReluGrad",
        "Scale",
        "SigmoidGrad",
        "SliceGrad",
        "SoftmaxGrad_13",
        "SplitTraining",
        "TanhGrad",
    }
)

# By engine: its training graph's and its evaluation graph's. LiteRT's file is none of ONNX (``tflite_operators``).
ALLOWED: Final[Mapping[str, tuple[Operators, Operators]]] = {
    "portable": ({"": _STANDARD}, {"": _STANDARD}),
    "ort-training": ({"": _STANDARD | {"Size"}, "com.microsoft": _GRADIENTS}, {"": _STANDARD}),
}
