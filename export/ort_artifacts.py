"""Child process of export: the portable training graph becomes onnxruntime-training's training model and checkpoint.

Runs in the environment of the engine ``ort-training`` (``python -m export.ort_artifacts FOLDER``): its wheels exclude
the exporter's. The forward is what of ``train.onnx`` leads to the loss; its backward is thrown away and derived anew by
onnxruntime, so that two engines agree only if two derivations do. The adapter becomes the one trainable parameter.

Laws: frozen weights stay in the bundle's weights file, which both engines then map; nothing else in the folder is read
or written than the four files named here; the same input gives the same bytes.
"""

import logging
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from export.ort_rewrites import make_derivable
from host.bare_import import import_bare

__all__ = ["CHECKPOINT", "TRAIN", "write_artifacts"]

TRAIN, CHECKPOINT = "train-ort.onnx", "train-ort.ckpt"
_SOURCE, _THETA_FILE, _THETA = "train.onnx", "adapter.f32", "theta"
_LEAST_EXTERNAL_BYTES = 16 * 1024


def write_artifacts(folder: Path) -> None:
    """Write ``TRAIN`` and ``CHECKPOINT`` beside the portable graphs in ``folder``."""
    artifacts = import_bare("onnxruntime.training", "onnxruntime.training.artifacts")
    outside = _outside(onnx.load(folder / _SOURCE, load_external_data=False))
    model = onnx.load(folder / _SOURCE)
    _keep_forward(model.graph)
    make_derivable(model.graph)
    theta = np.fromfile(folder / _THETA_FILE, "<f4")
    model.graph.initializer.append(numpy_helper.from_array(theta, _THETA))
    logging.getLogger().setLevel(logging.ERROR)
    artifacts.generate_artifacts(model, requires_grad=[_THETA], frozen_params=[], artifact_directory=str(folder))
    training = onnx.load(folder / "training_model.onnx")
    _move_out(training, outside)
    _strip(training)
    (folder / TRAIN).write_bytes(training.SerializeToString(deterministic=True))
    (folder / "checkpoint").replace(folder / CHECKPOINT)
    for name in ("training_model.onnx", "eval_model.onnx"):
        (folder / name).unlink()


def _outside(model: onnx.ModelProto) -> dict[str, list[onnx.StringStringEntryProto]]:
    """Return where each weight outside the graph lies, by its name."""
    return {tensor.name: list(tensor.external_data) for tensor in model.graph.initializer if tensor.external_data}


def _keep_forward(graph: onnx.GraphProto) -> None:
    """Drop every output but the loss, and every node that it does not need."""
    del graph.output[1:]
    needed = {graph.output[0].name}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    kept.reverse()
    _set(graph.node, kept)
    _set(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    _set(graph.input, [value for value in graph.input if value.name != _THETA])


def _move_out(model: onnx.ModelProto, outside: dict[str, list[onnx.StringStringEntryProto]]) -> None:
    """Let the weights point into the bundle's weights file again; onnxruntime keeps their names."""
    for tensor in model.graph.initializer:
        entries = outside.get(tensor.name)
        if entries is not None and len(tensor.raw_data) >= _LEAST_EXTERNAL_BYTES:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.extend(entries)


def _strip(model: onnx.ModelProto) -> None:
    model.producer_name, model.producer_version, model.doc_string = "edgefold", "", ""
    for node in model.graph.node:
        node.doc_string = ""


def _set(field: object, values: list[object]) -> None:
    del field[:]  # type: ignore[attr-defined]  # a repeated field of protobuf
    field.extend(values)  # type: ignore[attr-defined]


if __name__ == "__main__":
    write_artifacts(Path(sys.argv[1]))
