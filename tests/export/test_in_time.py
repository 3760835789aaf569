"""What the backward makes of kept values alone waits for its turn, in onnxruntime's own order of execution."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edge_agent.trainer import portable
from export.bundle import Exported
from export.in_time import hold_back

HELD = ".in_time"


def executed(graph: onnx.ModelProto, folder: Path, theta: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    """Return the names of the operations in the order in which onnxruntime ran them, and what they gave."""
    path = folder / "graph.onnx"
    path.write_bytes(graph.SerializeToString())
    options = ort.SessionOptions()
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # as the engine
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=portable._NOT_WANTED
    )
    ids = np.random.default_rng(0).integers(2, 200, (3, 7))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": np.arange(3)}
    values = session.run(["loss", "grad"], {"theta": theta, **batch})
    events = json.loads(Path(session.end_profiling()).read_text())
    end = "_kernel_time"
    return [one["name"].removesuffix(end) for one in events if one["name"].endswith(end)], values


def without(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with nothing held back."""
    free = onnx.ModelProto()
    free.CopyFrom(graph)
    source = {node.output[0]: node.input[0] for node in free.graph.node if node.name.endswith(HELD)}
    for node in free.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = source.get(name, name)
    return free


def test_what_a_norms_backward_makes_of_kept_values_waits_for_the_gradient(exported: Exported, tmp_path: Path) -> None:
    for path in exported.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    graph = onnx.load(exported.folder / "train.onnx", load_external_data=False)
    held = {node.output[0] for node in graph.graph.node if node.name.endswith(HELD)}
    waiting = {node.name for node in graph.graph.node if held & set(node.input)}
    (loss,) = (node.name for node in graph.graph.node if "loss" in node.output)
    theta = np.fromfile(exported.folder / "adapter.f32", np.float32)
    order, values = executed(graph, tmp_path, theta)
    ran = [name for name in order if name in waiting]
    assert len(ran) >= 4  # two layers of two norms
    assert min(order.index(name) for name in ran) > order.index(loss)
    order, same = executed(without(graph), tmp_path, theta)
    assert min(order.index(name) for name in ran) < order.index(loss)  # what the pass is for
    assert [one.tobytes() for one in same] == [one.tobytes() for one in values]


def test_a_graph_that_does_not_train_is_left_alone(exported: Exported) -> None:
    model = ir.load(exported.folder / "eval.onnx")
    before = [node.name for node in model.graph]
    assert hold_back(model.graph) == 0
    assert [node.name for node in model.graph] == before
