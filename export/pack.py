"""Pass: a bundle's ONNX models become small files and one weights file that all of them map.

Laws: a weight is stored once, by its content, however many graphs and names use it, also where it is rows of a table of
few bits; it begins on a page, so that a runtime can map it; integers and small tensors stay inside the graphs
(onnxruntime refuses external shape tensors); nothing is stored that no operation reads; the only location ever written
is the plain name of the weights file. The same models give the same bytes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from export.in_time import hold_back
from export.pieces import cut_products
from export.products import absorb
from export.quantise import LEAST_BYTES, LEAST_PIECE, PAGE_BYTES, Table
from export.storage import store
from export.strips import compute_by_strips
from protocol.errors import LocalProtocolError

__all__ = ["Packed", "pack"]

LEAST_EXTERNAL_BYTES = LEAST_BYTES  # below, padding to a page and an entry cost more than they save
# What may lie outside: onnxruntime refuses shape tensors there, which are integers of 64 bits.
EXTERNAL = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8})


@dataclass(frozen=True, slots=True)
class Packed:
    """What ``pack`` wrote."""

    n_products: int  # matrix products in the training graph
    weights_bytes: int


class _Weights:
    """The weights file while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._offsets: dict[bytes, int] = {}
        self._tables: list[tuple[bytes, int]] = []  # content and offset of those of which others may be a part

    def put(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        """Store a tensor's bytes unless they are there; return the tensor that points at them."""
        data, key = tensor.tobytes(), _key(tensor)
        if key not in self._offsets:
            inside = self._inside(data)
            self._offsets[key] = self._append(data) if inside is None else inside
            if tensor.size >= 2 * LEAST_PIECE and tensor.dtype != ir.DataType.FLOAT:
                self._tables.append((data, self._offsets[key]))
        return ir.ExternalTensor(
            self._path.name,
            self._offsets[key],
            len(data),
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
            base_dir=self._path.parent,
        )

    def _append(self, data: bytes) -> int:
        self._file.write(b"\0" * (-self._file.tell() % PAGE_BYTES))
        offset = self._file.tell()
        self._file.write(data)
        return offset

    def _inside(self, data: bytes) -> int | None:
        """Return where ``data`` already is, as pages of a table; None: nowhere."""
        for table, offset in self._tables:
            at = table.find(data)
            if at >= 0 and at % PAGE_BYTES == 0:
                return offset + at
        return None

    def close(self) -> int:
        """Return the file's length in bytes."""
        length = self._file.tell()
        self._file.close()
        return length


def pack(
    models: Mapping[Path, ir.Model],
    *,
    weights_path: Path,
    table: Table | None = None,
    outside: frozenset[bytes] = frozenset(),
) -> Packed:
    """Write each model to its path, beside one weights file; all of them in one folder.

    Requires: models as ``lower`` returns them, weights inside, the training graph first; ``table`` as ``quantise`` made
    it; ``outside`` has the SHA-256 of weights that go to the file however small they are.
    Ensures: the laws above; every 2-D product is a Gemm that reads its weight as stored; no notes of the exporter
    (source lines of this machine among them) are left.
    """
    weights = _Weights(weights_path)
    try:
        n_products, *_ = [absorb(model.graph) for model in models.values()]
        for model in models.values():
            if cut_products(model.graph, table or {}):
                compute_by_strips(model.graph)
            hold_back(model.graph)
            store(model, table or {})
        for path, model in models.items():
            _strip(model)
            RemoveUnusedNodesPass()(model)  # what the passes left of what they replaced: a bias that is in pieces now
            for name, value in model.graph.initializers.items():
                tensor = value.const_value
                if tensor is None:
                    message = f"{path.name}: the initializer {name} has no value"
                    raise LocalProtocolError(message)
                is_large = tensor.nbytes >= LEAST_EXTERNAL_BYTES
                if tensor.dtype in EXTERNAL and (is_large or _key(tensor) in outside):
                    value.const_value = weights.put(tensor, name)
            ir.save(model, path)
    finally:
        length = weights.close()
    return Packed(n_products=n_products, weights_bytes=length)


def _key(tensor: ir.TensorProtocol) -> bytes:
    return hashlib.sha256(tensor.tobytes()).digest()


def _strip(model: ir.Model) -> None:
    model.producer_name, model.producer_version, model.doc_string = "edgefold", None, None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
