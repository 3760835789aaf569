"""A bundle whose adapter is random and whose graphs are empty: enough for a service that measures no versions."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from host.durable import make_folder, write_bytes
from protocol.bundle import (
    ADAPTER,
    LAYOUT,
    MANIFEST,
    PARITY,
    AdapterFacts,
    EngineFiles,
    FileFacts,
    Manifest,
    ModelFacts,
    TaskFacts,
    TokenFacts,
)
from protocol.layout import Layout, TensorSlot

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_random_bundle"]

# An ONNX ModelProto with ir_version 10, opset 20 of the default domain, and a graph of a name and no node.
_EMPTY_GRAPH: Final = b"\x08\x0a" + b"\x3a\x07\x12\x05empty" + b"\x42\x02\x10\x14"


def write_random_bundle(folder: Path, *, n_params: int, seed: int) -> Path:
    """Write a bundle with an adapter of ``n_params`` values and return its folder; it cannot be trained.

    Raises:
        StorageError: the disk refuses.
    """
    adapter = np.random.default_rng(seed).normal(0, 0.1, n_params).astype("<f4")  # float32 [n_params]
    layout = Layout(tensors=(TensorSlot(name="head", shape=(n_params,), offset=0, role="head"),))
    contents = {
        ADAPTER: adapter.tobytes(),
        LAYOUT: layout.to_bytes(),
        PARITY: b"{}\n",
        "tokenizer.json": b"{}\n",
        "train.onnx": _EMPTY_GRAPH,
        "eval.onnx": _EMPTY_GRAPH,
    }
    manifest = Manifest(
        model=ModelFacts(source="random", family="none", n_parameters=n_params),
        task=TaskFacts(kind="text-classification", n_labels=2),
        adapter=AdapterFacts(kind="head", n_params=n_params),
        engines={"portable": EngineFiles(train="train.onnx", evaluate="eval.onnx", opset=20)},
        tokens=TokenFacts(file="tokenizer.json", pad_id=0, max_tokens=64),
        files={n: FileFacts(bytes=len(d), sha256=hashlib.sha256(d).hexdigest()) for n, d in contents.items()},
        tools={},
    )
    make_folder(folder)
    for name, data in {**contents, MANIFEST: manifest.to_bytes()}.items():
        write_bytes(folder / name, data)
    return folder
