"""Reads a LiteRT file before its runtime does, and refuses what a bundle of ours never holds.

Laws: a file is taken only if every operator that it declares is allowed and has no custom name, every operator that is
used is one of those declared, every tensor has one of the file's buffers, and every buffer lies inside of the file. The
laws of ``protocol.flatbuffer`` hold on the way to these facts; everything else of the file (shapes, options,
signatures) is the runtime's to check, and so are faults in it. Memory: none beside the file, which may be mapped.

Source: schema.fbs of TensorFlow Lite, version 3, from which the field numbers are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.errors import BundleError, MalformedMessageError
from protocol.flatbuffer import FlatBuffer
from protocol.tflite_operators import ALLOWED_BUILTINS, REFUSED_BUILTINS

if TYPE_CHECKING:
    from protocol.flatbuffer import Buffer, Table

__all__ = ["MAX_STEPS", "check_tflite"]

MAX_STEPS: Final = 2_000_000  # numbers read; MiniLM with four shapes takes 63,000
_IDENTIFIER: Final = b"TFL3"
_OPERATOR_CODES, _SUBGRAPHS, _BUFFERS = 1, 2, 4  # of Model
_OLD_CODE, _CUSTOM_NAME, _CODE = 0, 1, 3  # of OperatorCode
_TENSORS, _OPERATORS = 0, 3  # of SubGraph
_TENSOR_BUFFER: Final = 2
_USED_CODE: Final = 0  # of Operator
_DATA, _OFFSET, _SIZE = 0, 1, 2  # of Buffer


def check_tflite(data: Buffer) -> None:
    """Take the file, or refuse it.

    Raises:
        BundleError: a law is broken; names the operator (the bundle's maker's fault).
    """
    try:
        model = FlatBuffer(data, identifier=_IDENTIFIER, max_steps=MAX_STEPS).root()
        n_codes = sum(1 for code in model.tables(_OPERATOR_CODES) if _allowed(code))
        n_buffers = sum(1 for buffer in model.tables(_BUFFERS) if _inside(buffer, len(data)))
        for graph in model.tables(_SUBGRAPHS):
            _check_graph(graph, n_codes=n_codes, n_buffers=n_buffers)
    except MalformedMessageError as error:
        raise BundleError(f"no LiteRT file that is taken: {error}") from error


def _allowed(operator: Table) -> bool:
    """Return True, or refuse the operator; its number is the larger of an old field of one byte and a new one."""
    code = max(operator.byte(_OLD_CODE), operator.i32(_CODE))
    name = ALLOWED_BUILTINS.get(code)
    if name is None:
        raise BundleError(f"the operator {REFUSED_BUILTINS.get(code, code)} is not allowed")
    if operator.vector(_CUSTOM_NAME, item_bytes=1) != (0, 0):
        raise BundleError(f"the operator {name} has a custom name, which is not allowed")
    return True


def _inside(buffer: Table, n_bytes: int) -> bool:
    """Return True, or refuse a buffer that is not inside of the file: within its vector, or behind all tables."""
    buffer.vector(_DATA, item_bytes=1)
    offset, size = buffer.u64(_OFFSET), buffer.u64(_SIZE)
    if offset + size > n_bytes:
        raise MalformedMessageError(f"a buffer of {size} bytes from byte {offset} on, of {n_bytes}")
    return True


def _check_graph(graph: Table, *, n_codes: int, n_buffers: int) -> None:
    for operator in graph.tables(_OPERATORS):
        if operator.u32(_USED_CODE) >= n_codes:
            raise MalformedMessageError(f"an operator of kind {operator.u32(_USED_CODE)}, {n_codes} are declared")
    for tensor in graph.tables(_TENSORS):
        if tensor.u32(_TENSOR_BUFFER) >= n_buffers:
            raise MalformedMessageError(f"a tensor in buffer {tensor.u32(_TENSOR_BUFFER)}, of {n_buffers}")
