"""Frozen weights in few bits: what is stored is what the model computes with, forward and backward."""

import copy
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from export import pieces, storage
from export import quantise as quantising
from export.adapt import Options
from export.bundle import Exported, export_bundle
from export.quantise import PRECISIONS, Precision, Stored, key_of, quantise
from export.storage import store
from protocol.errors import ConfigError


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.table, self.up, self.down = nn.Embedding(90, 50), nn.Linear(50, 85), Conv1D(50, 85)
        self.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "fp32"])
def test_the_model_holds_exactly_what_is_stored(precision: Precision) -> None:
    model = _Model()
    before = {name: value.numpy().copy() for name, value in model.named_parameters()}
    table = quantise(model, precision)
    bound = {"fp16": 1e-3, "int8": 0.02, "nb8": 0.02, "nb4": 0.13}[precision]
    for name in ("table.weight", "up.weight", "down.weight"):
        values = dict(model.named_parameters())[name].numpy()
        stored = table[key_of(values)]
        assert np.array_equal(stored.values, values)
        assert np.linalg.norm(values - before[name]) < bound * np.linalg.norm(before[name])
    assert len(table) == 3
    assert torch.equal(model.up.bias, torch.from_numpy(before["up.bias"]))


def test_the_same_model_gives_the_same_codes() -> None:
    model = _Model()
    again = copy.deepcopy(model)
    assert quantise(model, "nb4").keys() == quantise(again, "nb4").keys()


def test_a_model_with_nothing_frozen_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing would be smaller"):
        quantise(_Model().requires_grad_(requires_grad=True), "nb4")


TEXT = """<ir_version: 10, opset_import: ["" : 20]>
graph (float[n, 50] x, float[n, 85] g) => (float[n, 85] y, float[n, 50] d) {
    y = Gemm<transB = 1>(x, w)
    d = Gemm(g, w)
}"""


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("precision", ["fp16", "int8", "nb8", "nb4"])
def test_forward_and_backward_read_the_same_codes(precision: Precision, is_transposed: bool) -> None:  # noqa: FBT001
    module = _Model()
    table = quantise(module, precision)
    weight = module.up.weight.numpy()
    text = TEXT
    if is_transposed:  # as the lowering leaves some
        text = TEXT.replace("Gemm<transB = 1>(x, w)", "Gemm(x, w)").replace("Gemm(g, w)", "Gemm<transB = 1>(g, w)")
    model = ir.from_onnx_text(text)
    kept = np.ascontiguousarray(weight.T) if is_transposed else weight
    value = ir.Value(
        name="w", shape=ir.Shape(kept.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=ir.tensor(kept)
    )
    model.graph.initializers["w"] = value
    for node in model.graph:
        node.replace_input_with(1, value)
    assert store(model, table) == 1
    assert [name for name in model.graph.initializers if name.endswith(".codes")] == ["w.codes"]  # one copy
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(7, 50)).astype(np.float32), rng.normal(size=(7, 85)).astype(np.float32)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    y, d = session.run(None, {"x": x, "g": g})
    assert y == pytest.approx(x @ weight.T, rel=1e-5, abs=1e-6)
    assert d == pytest.approx(g @ weight, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("precision", ["int8", "nb8", "nb4"])
def test_no_weight_is_widened_before_its_activation_is_there(precision: Precision) -> None:
    module = _Model()
    table = quantise(module, precision)
    text = TEXT.replace("y = Gemm<transB = 1>(x, w)", "p = Relu(x)\n    y = Gemm<transB = 1>(p, w)")
    text = text.replace("d = Gemm(g, w)", "q = Relu(g)\n    d = Gemm(q, w)")
    model = ir.from_onnx_text(text)
    for node, width in zip([n for n in model.graph if n.op_type == "Relu"], (50, 85), strict=True):
        node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(["n", width]), ir.DataType.FLOAT
    weight = module.up.weight.numpy()
    value = ir.Value(
        name="w", shape=ir.Shape(weight.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=ir.tensor(weight)
    )
    model.graph.initializers["w"] = value
    for node in model.graph:
        if node.op_type == "Gemm":
            node.replace_input_with(1, value)
    store(model, table)
    widening = {"DequantizeLinear": 2, "BitShift": 2 if precision == "nb4" else 0}
    for kind, n in widening.items():
        found = [node for node in model.graph if node.op_type == kind]
        assert len(found) == n
        assert all(_waits_for(node, "Relu") for node in found)


def _waits_for(node: ir.Node, kind: str) -> bool:
    """Return whether a node of ``kind`` is among those that must run before."""
    before = [v.producer() for v in node.inputs if v is not None and v.producer() is not None]
    return any(one.op_type == kind or _waits_for(one, kind) for one in before)


@pytest.mark.parametrize(
    ("width", "block"), [(384, 32), (50, 25), (85, 17), (96, 32), (40, 40), (31, 31), (13, 13), (127, 127)]
)
def test_blocks_divide_a_row_evenly(width: int, block: int) -> None:
    layer = nn.Linear(width, 512).requires_grad_(requires_grad=False)
    (stored,) = quantise(nn.Sequential(layer), "nb4").values()
    assert isinstance(stored, Stored)
    assert stored.codes.shape == (512 * width // block // 2, block)  # two values a byte
    assert stored.bits == 4


@pytest.fixture(scope="module")
def nb4(tiny_folder: Path, options: Options, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return a bundle in 4 bits whose feed-forwards, 180 x 24, are in two pieces, computed by strips."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(quantising, "MOST_WIDENED", 3000)
        for module in (quantising, pieces):
            patch.setattr(module, "LEAST_PIECE", 2000)
        patch.setattr(storage, "LEAST_BYTES", 1024)
        out = tmp_path_factory.mktemp("nb4") / "bundle"
        return export_bundle(str(tiny_folder), replace(options, precision="nb4", checkpoint=True), out)


@pytest.mark.timeout(900)
def test_a_bundle_in_four_bits_agrees_with_pytorch_as_well_as_any(nb4: Exported, exported: Exported) -> None:
    assert nb4.report.passed
    assert nb4.report.update_error < 1e-4
    assert nb4.manifest.precision == "nb4"
    assert nb4.manifest.files["weights.bin"].bytes < exported.manifest.files["weights.bin"].bytes
    model = onnx.load(nb4.folder / "train.onnx", load_external_data=False)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}
    widened = [node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    sizes = {one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in model.graph.value_info}
    assert {math.prod(sizes[name]) for name in widened} == {128 * 24, 52 * 24}
