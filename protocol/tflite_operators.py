"""The operators that a LiteRT file of a bundle may have, by their number in TensorFlow Lite's schema.

The same rule as ``onnx_operators``: each is a function of its input tensors alone. So no custom operators or delegates
(code of whoever built the runtime), no calls, branches and loops, no variables and tables (state that outlives a step),
no random numbers, no recurrent layers. What ``litert-torch`` emits for the families here, and the arithmetic beside it.

Source: schema.fbs of TensorFlow Lite (BuiltinOperator), as in ai-edge-litert 2.1.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ALLOWED_BUILTINS", "REFUSED_BUILTINS"]

ALLOWED_BUILTINS: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "ADD",
        1: "AVERAGE_POOL_2D",
        2: "CONCATENATION",
        3: "CONV_2D",
        4: "DEPTHWISE_CONV_2D",
        6: "DEQUANTIZE",
        7: "EMBEDDING_LOOKUP",
        8: "FLOOR",
        9: "FULLY_CONNECTED",
        14: "LOGISTIC",
        17: "MAX_POOL_2D",
        18: "MUL",
        19: "RELU",
        21: "RELU6",
        22: "RESHAPE",
        25: "SOFTMAX",
        28: "TANH",
        34: "PAD",
        36: "GATHER",
        39: "TRANSPOSE",
        40: "MEAN",
        41: "SUB",
        42: "DIV",
        43: "SQUEEZE",
        45: "STRIDED_SLICE",
        47: "EXP",
        49: "SPLIT",
        50: "LOG_SOFTMAX",
        53: "CAST",
        55: "MAXIMUM",
        56: "ARG_MAX",
        57: "MINIMUM",
        58: "LESS",
        59: "NEG",
        60: "PADV2",
        61: "GREATER",
        62: "GREATER_EQUAL",
        63: "LESS_EQUAL",
        64: "SELECT",
        65: "SLICE",
        66: "SIN",
        67: "TRANSPOSE_CONV",
        69: "TILE",
        70: "EXPAND_DIMS",
        71: "EQUAL",
        72: "NOT_EQUAL",
        73: "LOG",
        74: "SUM",
        75: "SQRT",
        76: "RSQRT",
        77: "SHAPE",
        78: "POW",
        79: "ARG_MIN",
        81: "REDUCE_PROD",
        82: "REDUCE_MAX",
        83: "PACK",
        84: "LOGICAL_OR",
        85: "ONE_HOT",
        86: "LOGICAL_AND",
        87: "LOGICAL_NOT",
        88: "UNPACK",
        89: "REDUCE_MIN",
        90: "FLOOR_DIV",
        91: "REDUCE_ANY",
        92: "SQUARE",
        93: "ZEROS_LIKE",
        94: "FILL",
        95: "FLOOR_MOD",
        96: "RANGE",
        98: "LEAKY_RELU",
        99: "SQUARED_DIFFERENCE",
        101: "ABS",
        102: "SPLIT_V",
        104: "CEIL",
        106: "ADD_N",
        107: "GATHER_ND",
        108: "COS",
        111: "ELU",
        114: "QUANTIZE",
        116: "ROUND",
        117: "HARD_SWISH",
        122: "SCATTER_ND",
        123: "SELECT_V2",
        126: "BATCH_MATMUL",
        128: "CUMSUM",
        130: "BROADCAST_TO",
        140: "REDUCE_ALL",
        145: "BROADCAST_ARGS",
        150: "GELU",
        151: "DYNAMIC_UPDATE_SLICE",
        158: "SIGN",
        190: "STABLEHLO_SCATTER",
    }
)

# Names for the refusal of what an attacker would most like to have; any other number is refused by its number.
REFUSED_BUILTINS: Final[Mapping[int, str]] = MappingProxyType(
    {
        31: "CALL",
        32: "CUSTOM",
        51: "DELEGATE",
        118: "IF",
        119: "WHILE",
        129: "CALL_ONCE",
        136: "HASHTABLE",
        142: "VAR_HANDLE",
        146: "RANDOM_STANDARD_NORMAL",
        148: "RANDOM_UNIFORM",
        173: "STABLEHLO_CUSTOM_CALL",
        200: "STABLEHLO_WHILE",
        204: "STABLEHLO_RNG_BIT_GENERATOR",
        206: "STABLEHLO_COMPOSITE",
        209: "STABLEHLO_CASE",
    }
)
