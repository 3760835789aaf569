"""Tells what is in a bundle: graphs with their operators, the adapter by role and layer, files.

Laws: the files are checked before anything of them is believed; nothing is run. Reading the graphs takes the onnx
package; no torch.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from host.bundle_folder import Bundle, open_bundle
from protocol.bundle import Manifest
from protocol.errors import BundleError

__all__ = ["Graph", "Inspected", "inspect"]


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
class Inspected:
    """What a bundle holds."""

    id: str
    manifest: Manifest
    graphs: tuple[Graph, ...]
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
    graphs = [
        _graph(bundle, engine, file)
        for engine, files in bundle.manifest.engines.items()
        for file in (files.train, files.evaluate)
    ]
    return Inspected(
        id=bundle.id,
        manifest=bundle.manifest,
        graphs=tuple(graphs),
        roles=dict(roles),
        layers={layer: dict(found) for layer, found in layers.items()},
    )


def _graph(bundle: Bundle, engine: str, file: str) -> Graph:
    try:
        graph = onnx.load(bundle.path(file), load_external_data=False).graph
    except DecodeError as error:
        message = f"{bundle.folder}: {file} is no ONNX graph"
        raise BundleError(message) from error
    operators = Counter(node.op_type for node in graph.node)
    return Graph(
        engine=engine,
        file=file,
        bytes=bundle.manifest.files[file].bytes,
        inputs={value.name: _sizes(value) for value in graph.input},
        outputs={value.name: _sizes(value) for value in graph.output},
        operators=dict(sorted(operators.items(), key=lambda one: (-one[1], one[0]))),
    )


def _sizes(value: onnx.ValueInfoProto) -> tuple[str, ...]:
    return tuple(size.dim_param or str(size.dim_value) for size in value.type.tensor_type.shape.dim)
