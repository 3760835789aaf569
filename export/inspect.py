"""Tells what is in a bundle: graphs with their operators, weights, the adapter by role and layer, files.

Laws: the files are checked before anything of them is believed; nothing is run. Reading the graphs takes the onnx
package; no torch.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from host.bundle_folder import Bundle, open_bundle
from protocol.bundle import Manifest
from protocol.errors import BundleError

__all__ = ["Graph", "Inspected", "Weights", "inspect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One graph of one engine."""

    engine: str
    file: str
    bytes: int
    inputs: dict[str, tuple[str, ...]]  # name -> sizes; a letter or a name stands for a free one
    outputs: dict[str, tuple[str, ...]]
    operators: dict[str, int]  # how often each occurs, the most frequent first


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The tensors of one type, each counted once however many graphs read it."""

    n_tensors: int
    n_values: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """What a bundle holds."""

    id: str
    manifest: Manifest
    graphs: tuple[Graph, ...]
    weights: dict[str, Weights]  # how they are stored, the largest first; of ONNX graphs
    roles: dict[str, int]  # role -> how many parameters
    layers: dict[str, dict[str, int]]  # layer ("-" for none) -> role -> how many parameters


def inspect(folder: Path) -> Inspected:
    """Return what the bundle in ``folder`` holds.

    Raises:
        BundleError: a file is not what the manifest says, or a graph is none.
    """
    bundle = open_bundle(folder)
    roles: Counter[str] = Counter()
    layers: dict[str, Counter[str]] = defaultdict(Counter)
    for slot in bundle.layout.tensors:
        roles[slot.role] += slot.n_values
        layers["-" if slot.layer is None else str(slot.layer)][slot.role] += slot.n_values
    graphs, tensors = [], dict[tuple[str, ...], onnx.TensorProto]()
    for engine, files in bundle.manifest.engines.items():
        names = (files.train, files.evaluate, files.per_example)
        for file in dict.fromkeys(name for name in names if name is not None):
            graph = _load(bundle, file)
            graphs.append(_graph(bundle, engine, file, graph))
            tensors |= {_place(file, tensor): tensor for tensor in graph.initializer}
    return Inspected(
        id=bundle.id,
        manifest=bundle.manifest,
        graphs=tuple(graphs),
        weights=_weights(tensors.values()),
        roles=dict(roles),
        layers={layer: dict(found) for layer, found in layers.items()},
    )


def _load(bundle: Bundle, file: str) -> onnx.GraphProto:
    """Return a graph without its outside weights; an empty one for the file of another runtime (LiteRT's)."""
    if not file.endswith(".onnx"):
        return onnx.GraphProto()
    try:
        return onnx.load(bundle.path(file), load_external_data=False).graph
    except DecodeError as error:
        message = f"{bundle.folder}: {file} is no ONNX graph"
        raise BundleError(message) from error


def _graph(bundle: Bundle, engine: str, file: str, graph: onnx.GraphProto) -> Graph:
    operators = Counter(node.op_type for node in graph.node)
    return Graph(
        engine=engine,
        file=file,
        bytes=bundle.manifest.files[file].bytes,
        inputs={value.name: _sizes(value) for value in graph.input},
        outputs={value.name: _sizes(value) for value in graph.output},
        operators=dict(sorted(operators.items(), key=lambda one: (-one[1], one[0]))),
    )


def _place(file: str, tensor: onnx.TensorProto) -> tuple[str, ...]:
    """Return where a tensor's bytes are: what is read twice is one tensor."""
    outside = {entry.key: entry.value for entry in tensor.external_data}
    return (outside["location"], outside.get("offset", "0")) if "location" in outside else (file, "", tensor.name)


def _weights(tensors: Iterable[onnx.TensorProto]) -> dict[str, Weights]:
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for tensor in tensors:
        n_stored = math.prod(tensor.dims)
        name, per_value = _stored_as(tensor)
        outside = {entry.key: entry.value for entry in tensor.external_data}
        n_bytes = int(outside["length"]) if "length" in outside else len(tensor.raw_data) or tensor.ByteSize()
        for place, amount in enumerate((1, n_stored * per_value, n_bytes)):
            found[name][place] += amount
    sizes = {name: Weights(n_tensors=n, n_values=values, bytes=size) for name, (n, values, size) in found.items()}
    return dict(sorted(sizes.items(), key=lambda one: (-one[1].bytes, one[0])))


def _stored_as(tensor: onnx.TensorProto) -> tuple[str, int]:
    """Return what a type is called here, and how many values one element holds (``export/storage.py``)."""
    if tensor.data_type == onnx.TensorProto.UINT8 and tensor.name.endswith(".codes"):
        return "4 bits, two a byte", 2
    name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    name = {"float": "float32"}.get(name, name)
    return (f"{name} scales" if tensor.name.endswith(".scales") else name), 1


def _sizes(value: onnx.ValueInfoProto) -> tuple[str, ...]:
    return tuple(size.dim_param or str(size.dim_value) for size in value.type.tensor_type.shape.dim)
