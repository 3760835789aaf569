"""A real bundle that trains in milliseconds: logistic regression on counts of words, its graphs written by hand.

theta is a table [VOCABULARY, N_LABELS]; logits = counts @ theta; grad = counts^T (softmax - one-hot) / batch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from protocol.bundle import (
    MANIFEST,
    AdapterFacts,
    EngineFiles,
    FileFacts,
    Manifest,
    ModelFacts,
    TaskFacts,
    TokenFacts,
    bundle_id,
)
from protocol.layout import Layout, TensorSlot
from tests.edge_agent.trainer.samples import PAD_ID, write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY, N_LABELS = 16, 2
N_PARAMS = VOCABULARY * N_LABELS
_OPSET = 18


def write_bundle(folder: Path, *, theta: np.ndarray[Any, Any] | None = None) -> str:
    """Write the bundle, its own adapter ``theta`` or zeros, and return its id."""
    folder.mkdir()
    write_tokenizer(folder / "tokenizer.json")
    vector = np.zeros(N_PARAMS, np.float32) if theta is None else theta
    (folder / "adapter.f32").write_bytes(vector.astype("<f4").tobytes())
    slot = TensorSlot(name="head.weight", shape=(VOCABULARY, N_LABELS), offset=0, role="head")
    (folder / "layout.json").write_bytes(Layout(tensors=(slot,)).to_bytes())
    (folder / "parity.json").write_bytes(b"{}")
    (folder / "train.onnx").write_bytes(_graph(is_training=True))
    (folder / "eval.onnx").write_bytes(_graph(is_training=False))
    files = {
        path.name: FileFacts(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.iterdir()
    }
    manifest = Manifest(
        model=ModelFacts(source="made here", family="bag-of-words", n_parameters=N_PARAMS),
        task=TaskFacts(kind="text-classification", n_labels=N_LABELS),
        adapter=AdapterFacts(kind="head", n_params=N_PARAMS),
        engines={"portable": EngineFiles(train="train.onnx", evaluate="eval.onnx", opset=_OPSET)},
        tokens=TokenFacts(file="tokenizer.json", pad_id=PAD_ID, max_tokens=32),
        files=files,
        tools={},
    ).to_bytes()
    (folder / MANIFEST).write_bytes(manifest)
    return bundle_id(manifest)


def knowing(**weights: float) -> np.ndarray[Any, Any]:
    """Return a theta by which each word speaks for label 1 with its weight."""
    ids = {word: 10 + i for i, word in enumerate(("good", "bad", "film", "the", "was"))}
    theta = np.zeros((VOCABULARY, N_LABELS), np.float32)
    for word, weight in weights.items():
        theta[ids[word], 1] = weight
    return theta.reshape(-1)


def _graph(*, is_training: bool) -> bytes:
    nodes = [
        helper.make_node("Reshape", ["theta", "table_shape"], ["table"]),
        helper.make_node("Unsqueeze", ["input_ids", "last"], ["ids"]),
        helper.make_node("Equal", ["ids", "all_ids"], ["is_word"]),
        helper.make_node("Cast", ["is_word"], ["hot"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_3"]),
        helper.make_node("Mul", ["hot", "mask_3"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "middle"], ["counts"], keepdims=0),
        helper.make_node("MatMul", ["counts", "table"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info("theta", TensorProto.FLOAT, [N_PARAMS]),
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "seq"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", N_LABELS])]
    constants = {"table_shape": [VOCABULARY, N_LABELS], "last": [-1], "middle": [1]}
    constants["all_ids"] = list(range(VOCABULARY))
    if is_training:
        nodes += _backward()
        inputs.append(helper.make_tensor_value_info("labels", TensorProto.INT64, ["batch"]))
        outputs = [
            helper.make_tensor_value_info("loss", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("grad", TensorProto.FLOAT, [N_PARAMS]),
        ]
        constants |= {"all_labels": list(range(N_LABELS)), "flat": [-1], "first": [0]}
    tensors = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bag", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _backward() -> list[Any]:
    return [
        helper.make_node("Unsqueeze", ["labels", "last"], ["labels_2"]),
        helper.make_node("Equal", ["labels_2", "all_labels"], ["is_label"]),
        helper.make_node("Cast", ["is_label"], ["wanted"], to=TensorProto.FLOAT),
        helper.make_node("LogSoftmax", ["logits"], ["log_p"], axis=-1),
        helper.make_node("Exp", ["log_p"], ["p"]),
        helper.make_node("Mul", ["log_p", "wanted"], ["picked"]),
        helper.make_node("ReduceSum", ["picked", "last"], ["per_example"], keepdims=0),
        helper.make_node("ReduceMean", ["per_example", "first"], ["mean"], keepdims=0),
        helper.make_node("Neg", ["mean"], ["loss"]),
        helper.make_node("Sub", ["p", "wanted"], ["error"]),
        helper.make_node("Unsqueeze", ["counts", "last"], ["counts_3"]),
        helper.make_node("Unsqueeze", ["error", "middle"], ["error_3"]),
        helper.make_node("Mul", ["counts_3", "error_3"], ["slopes"]),
        helper.make_node("ReduceMean", ["slopes", "first"], ["slope"], keepdims=0),
        helper.make_node("Reshape", ["slope", "flat"], ["grad"]),
    ]
