"""A wide weight of few bits is widened a piece at a time: the same product, and never the whole weight at once."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from export import pack as packing
from export import pieces, quantise
from export.pieces import cut_products
from export.quantise import Cut, Precision, key_of
from export.storage import store

MOST = 128 * 128
FEW: list[Precision] = ["fp16", "int8", "nb8", "nb4"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "MOST_WIDENED", MOST)
    for module in (quantise, pieces, packing):
        monkeypatch.setattr(module, "LEAST_PIECE", MOST)


class _Model(nn.Module):
    """A wide and a tall weight, as Linear [out, in] and as Conv1D [in, out]; and a table that is a head, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.wide, self.tall = nn.Linear(640, 100), nn.Linear(100, 650)
        self.wide_turned, self.tall_turned = Conv1D(100, 640), Conv1D(650, 100)
        self.table, self.head = nn.Embedding(600, 64), nn.Linear(64, 600, bias=False)
        self.head.weight = self.table.weight
        self.requires_grad_(requires_grad=False)


def _graph(text: str, weight: NDArray[np.float32]) -> ir.Model:
    model = ir.from_onnx_text('<ir_version: 10, opset_import: ["" : 20]>\n' + text)
    value = ir.Value(
        name="w", shape=ir.Shape(weight.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=ir.tensor(weight)
    )
    model.graph.initializers["w"] = value
    for node in model.graph:
        for place, one in enumerate(node.inputs):
            if one is not None and one.name == "w":
                node.replace_input_with(place, value)
    return model


def run_model(model: ir.Model, feeds: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, feeds)
    return found


def _widened(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in {"DequantizeLinear", "Cast"}]


PRODUCTS = """graph (float[n, {k}] x, float[n, {m}] g, float[{m}] bias, float[n, {k}] more, float[{k}, n] t, float one)
    => (float[n, {m}] y, float[n, {k}] d, float[n, {m}] z) {{
    y = Gemm<{there}alpha = 0.5, beta = 2.0>(x, w, bias)
    d = Gemm<{back}alpha = 0.25, beta = 3.0>(g, w, more)
    z = Gemm<{there}transA = 1>(t, w, one)
}}"""


@pytest.mark.parametrize("precision", FEW)
@pytest.mark.parametrize("name", ["wide", "tall", "wide_turned", "tall_turned"])
def test_products_with_the_pieces_are_the_product(precision: Precision, name: str) -> None:
    module = _Model()
    table = quantise.quantise(module, precision)
    stored = module.get_submodule(name).weight.numpy()
    is_turned = name.endswith("turned")
    assert isinstance(table[key_of(stored)], Cut)
    there, back = ("", "transB = 1, ") if is_turned else ("transB = 1, ", "")
    weight = stored.T if is_turned else stored  # [m, k]
    m, k = weight.shape
    model = _graph(PRODUCTS.format(k=k, m=m, there=there, back=back), stored)
    assert cut_products(model.graph, table) == 1
    assert store(model, table) == len(table[key_of(stored)].parts)  # type: ignore[union-attr]
    widened = _widened(model)
    assert len(widened) >= 3 * 3  # three readers, three pieces at least
    assert all(np.prod(node.outputs[0].shape.numpy()) <= 1.2 * MOST for node in widened)  # type: ignore[union-attr]
    assert all(one.dtype != ir.DataType.FLOAT or one.const_value.size < m * k for one in _constants(model))  # type: ignore[union-attr]
    rng = np.random.default_rng(0)
    shapes = {"x": (7, k), "g": (7, m), "bias": (m,), "more": (7, k), "t": (k, 7), "one": ()}
    feeds = {key: np.asarray(rng.normal(size=shape), np.float32) for key, shape in shapes.items()}
    y, d, z = run_model(model, dict(feeds))
    assert y == pytest.approx(0.5 * feeds["x"] @ weight.T + 2 * feeds["bias"], rel=1e-4, abs=1e-5)
    assert d == pytest.approx(0.25 * feeds["g"] @ weight + 3 * feeds["more"], rel=1e-4, abs=1e-5)
    assert z == pytest.approx(feeds["t"].T @ weight.T + feeds["one"], rel=1e-4, abs=1e-5)


def _constants(model: ir.Model) -> list[ir.Value]:
    return list(model.graph.initializers.values())


@pytest.mark.parametrize("precision", ["int8", "nb8", "nb4"])
@pytest.mark.parametrize("name", ["wide", "tall"])
def test_a_piece_waits_for_the_product_before_it(precision: Precision, name: str) -> None:
    module = _Model()
    table = quantise.quantise(module, precision)
    weight = module.get_submodule(name).weight.numpy()
    m, k = weight.shape
    text = f"""graph (float[n, {k}] x) => (float[n, {m}] y) {{
        p = Relu(x)
        y = Gemm<transB = 1>(p, w)
    }}"""
    model = _graph(text, weight)
    model.graph[0].outputs[0].shape, model.graph[0].outputs[0].dtype = ir.Shape(["n", k]), ir.DataType.FLOAT
    cut_products(model.graph, table)
    store(model, table)
    first, *others = [node for node in _widened(model) if node.op_type == "DequantizeLinear"]
    assert "Relu" in _before(first)
    assert [_before(node).count("Gemm") for node in others] == list(range(1, len(others) + 1))


def _before(node: ir.Node) -> list[str]:
    """Return the kinds of all nodes that must run before, each node once."""
    found: dict[ir.Node, None] = {}
    queue = [node]
    while queue:
        producers = [value.producer() for value in queue.pop().inputs if value is not None]
        new = [one for one in producers if one is not None and one not in found]
        found |= dict.fromkeys(new)
        queue += new
    return [one.op_type for one in found]


def test_a_reader_that_is_no_gemm_gets_the_pieces_joined() -> None:
    module = _Model()
    table = quantise.quantise(module, "nb4")
    weight = module.wide_turned.weight.numpy()  # [640, 100]
    model = _graph("graph (float[n, 2, 640] x) => (float[n, 2, 100] y) { y = MatMul(x, w) }", weight)
    assert cut_products(model.graph, table) == 1
    store(model, table)
    x = np.random.default_rng(0).normal(size=(3, 2, 640)).astype(np.float32)
    (y,) = run_model(model, {"x": x})
    assert y == pytest.approx(x @ weight, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("precision", FEW)
def test_a_table_is_picked_from_whole_and_multiplied_in_pieces_of_the_same_bytes(
    precision: Precision, tmp_path: Path
) -> None:
    module = _Model()
    table = quantise.quantise(module, precision)
    weight = module.table.weight.numpy()
    text = """graph (int64[n] rows, float[n, 64] x) => (float[n, 64] e, float[n, 600] y) {
        p = Gather(w, rows)
        e = Neg(p)
        y = Gemm<transB = 1>(x, w)
    }"""
    model = _graph(text, weight)
    packed = packing.pack({tmp_path / "train.onnx": model}, weights_path=tmp_path / "weights.bin", table=table)
    assert packed.weights_bytes == weight.size * (2 if precision == "fp16" else 1)  # the codes, once
    session = ort.InferenceSession(str(tmp_path / "train.onnx"), providers=["CPUExecutionProvider"])
    x, rows = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32), np.array([0, 599, 256, 255, 7])
    e, y = session.run(None, {"x": x, "rows": rows})
    assert np.array_equal(e, -weight[rows])
    assert y == pytest.approx(x @ weight.T, rel=1e-4, abs=1e-5)
    wide = [node.outputs[0].name or "" for node in _widened(model)]
    assert {"w.1.", "w.2."} <= {name[:4] for name in wide}  # in pieces, though the table is whole


def test_a_weight_has_at_most_sixteen_pieces() -> None:
    layer = nn.Linear(64, 256 * 40).requires_grad_(requires_grad=False)
    (cut,) = [one for one in quantise.quantise(nn.Sequential(layer), "nb8").values() if isinstance(one, Cut)]
    assert 12 <= len(cut.parts) <= quantise.MOST_PIECES  # and not 40
    assert np.array_equal(cut.transposed.values, cut.values.T)


@pytest.mark.parametrize(("width", "n_pieces"), [(128 * 6, 4), (128 * 3, 3), (128, 1)])
def test_a_feed_forward_is_cut_though_all_of_it_could_be_widened(
    width: int, n_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "MOST_WIDENED", 128 * 128 * 6)
    layer = nn.Linear(128, width).requires_grad_(requires_grad=False)
    stored, *_ = quantise.quantise(layer, "nb8").values()
    assert (len(stored.parts) if isinstance(stored, Cut) else 1) == n_pieces
