"""Between two wide weights in pieces everything is computed strip by strip: the same numbers, in less memory."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from export import pieces, quantise
from export.memory_plan import Sizes, activation_bytes
from export.pack import pack
from export.pieces import cut_products
from export.quantise import Table
from export.storage import store
from export.strips import compute_by_strips
from tests.export.test_pieces import MOST, run_model

WIDTH, INNER = 64, 640


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "MOST_WIDENED", MOST)
    for module in (quantise, pieces):
        monkeypatch.setattr(module, "LEAST_PIECE", MOST)


class _FeedForward(nn.Module):
    """A way up and one down again, and a gate beside the way up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.up, self.gate, self.down = (nn.Linear(a, b) for a, b in ((WIDTH, INNER), (WIDTH, INNER), (INNER, WIDTH)))
        self.requires_grad_(requires_grad=False)


# What an activation computes, here with its slope s, and the backward of it; the batch has two axes, products have one.
PLAIN = f"""graph (float[b, t, {WIDTH}] x, float[n, {WIDTH}] g, int64[3] wide, int64[2] flat)
    => (float[n, {WIDTH}] y, float[n, {WIDTH}] d) {{
    x2 = Reshape(x, flat)
    u2 = Gemm<transB = 1>(x2, up, bias)
    u = Reshape(u2, wide)
    e = Erf(u)
    h = Add(e, one)
    s = Mul(h, u)
    v = Mul(u, h)
    v2 = Reshape(v, flat)
    y = Gemm<transB = 1, alpha = 0.5>(v2, down)
    z2 = Gemm(g, down)
    z = Reshape(z2, wide)
    du = Mul(z, s)
    du2 = Reshape(du, flat)
    d = Gemm(du2, up)
}}"""
GATED = f"""graph (float[b, t, {WIDTH}] x, float[n, {WIDTH}] g, int64[3] wide, int64[2] flat)
    => (float[n, {WIDTH}] y, float[n, {WIDTH}] d) {{
    x2 = Reshape(x, flat)
    a = Gemm<transB = 1>(x2, gate, bias)
    c = Gemm<transB = 1>(x2, up)
    s = Sigmoid(a)
    p = Mul(a, s)
    v = Mul(p, c)
    y = Gemm<transB = 1>(v, down)
    z = Gemm(g, down)
    dc = Mul(z, p)
    za = Mul(z, c)
    da = Mul(za, s)
    d1 = Gemm(dc, up)
    d = Gemm(da, gate, d1)
}}"""

RECTIFIED = PLAIN.replace("e = Erf(u)", "e = Relu(u)").replace(
    "du = Mul(z, s)", "off = LessOrEqual(s, one)\n    du = Where(off, one, z)"
)
IN_USE = PLAIN.replace("e = Erf(u)", "e = Gelu(u)")  # as a graph has it that is not differentiated
TEXTS = {"plain": PLAIN, "gated": GATED, "rectified": RECTIFIED, "in-use": IN_USE}


def _graph(text: str, module: _FeedForward) -> ir.Model:
    model = ir.from_onnx_text('<ir_version: 10, opset_import: ["" : 20]>\n' + text)
    constants = {name: getattr(module, name).weight.numpy() for name in ("up", "gate", "down")}
    constants |= {"one": np.float32([1.0]), "bias": module.up.bias.numpy()}
    for name, values in constants.items():
        tensor = ir.tensor(values)
        value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        uses = [(node, at) for node in model.graph for at, one in enumerate(node.inputs) if one and one.name == name]
        if uses:
            model.graph.initializers[name] = value
        for node, at in uses:
            node.replace_input_with(at, value)
    widths = {"x2": WIDTH, "y": WIDTH, "d": WIDTH, "d1": WIDTH}
    for node in model.graph:  # as ``lower`` leaves them
        (output,) = node.outputs
        width = widths.get(output.name or "", INNER)
        has_batch = output.name in {"u", "e", "h", "s", "v", "z", "off", "du"} and text is not GATED
        output.shape = ir.Shape(["b", "t", width] if has_batch else ["n", width])
        output.dtype = ir.DataType.BOOL if output.name == "off" else ir.DataType.FLOAT
    return model


def _feeds(rows: tuple[int, int]) -> dict[str, NDArray[np.generic]]:
    rng, (b, t) = np.random.default_rng(0), rows
    shapes = {"x": (b, t, WIDTH), "g": (b * t, WIDTH)}
    feeds: dict[str, NDArray[np.generic]] = {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
    }
    return feeds | {"wide": np.array([b, t, INNER]), "flat": np.array([b * t, -1])}


def _cut(text: str, precision: quantise.Precision) -> tuple[ir.Model, Table]:
    module = _FeedForward()
    table = quantise.quantise(module, precision)
    model = _graph(text, module)
    assert cut_products(model.graph, table) == (3 if text is GATED else 2)
    return model, table


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("precision", ["fp16", "int8", "nb8", "nb4"])
def test_strips_give_what_the_whole_gives(text: str, precision: quantise.Precision) -> None:
    (whole, table), (model, _) = (_cut(text, precision) for _ in range(2))
    assert compute_by_strips(model.graph) == 1
    for one in (whole, model):
        store(one, table)
    ours = {node.op_type for node in model.graph}
    assert not {"Slice"} & ours
    assert not any(
        node.op_type == "Concat" and node.outputs[0].shape is not None and node.outputs[0].shape[-1] == INNER
        for node in model.graph
    )
    for rows in ((2, 3), (1, 1), (3, 7)):
        for one, expected in zip(run_model(model, _feeds(rows)), run_model(whole, _feeds(rows)), strict=True):
            assert one == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_nothing_is_stored_that_nobody_reads(text: str, tmp_path: Path) -> None:
    module = _FeedForward()
    table = quantise.quantise(module, "nb8")
    path = tmp_path / "graph.onnx"
    pack({path: _graph(text, module)}, weights_path=tmp_path / "weights.bin", table=table)
    graph = ir.load(path).graph
    assert [name for name, value in graph.initializers.items() if not value.uses()] == []
    assert "bias" not in graph.initializers  # it is in pieces now


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_strip_is_done_before_the_next_one_begins(text: str) -> None:
    (whole, _), (model, _) = (_cut(text, "nb8") for _ in range(2))
    compute_by_strips(model.graph)
    sizes = Sizes(batch=8, seq=16)
    assert activation_bytes(model.graph, sizes) < 0.8 * activation_bytes(whole.graph, sizes)
    names = [node.outputs[0].name or "" for node in model.graph]
    ups, downs = ([at for at, name in enumerate(names) if name.startswith(start)] for start in ("v.strip", "y"))
    assert sorted(ups + downs) == [at for pair in zip(ups, downs, strict=True) for at in pair]


READERS = {
    "an output": ("v2 = Reshape(v, flat)", "v2 = Reshape(v, flat)\n out = Identity(v2)", f", float[n, {INNER}] out"),
    "a sum over rows": ("du2 = Reshape(du, flat)", "du2 = Reshape(du, flat)\n out = ReduceSum(du2)", ", float out"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_wide_value_that_is_needed_whole_leaves_all_as_it_was(name: str) -> None:
    before, after, output = READERS[name]
    text = PLAIN.replace(before, after).replace("] d) {", f"] d{output}) {{")
    module = _FeedForward()
    table = quantise.quantise(module, "nb8")
    model = _graph(text, module)
    cut_products(model.graph, table)
    kinds = [node.op_type for node in model.graph]
    assert compute_by_strips(model.graph) == 0
    assert [node.op_type for node in model.graph] == kinds


def test_weights_in_unequal_pieces_are_joined_as_before() -> None:
    model, _ = _cut(PLAIN, "nb8")
    cut_out = next(node for node in model.graph if node.op_type == "Slice")
    start = ir.tensor(np.array([1], np.int64))
    other = ir.Value(name="other", shape=ir.Shape([1]), type=ir.TensorType(start.dtype), const_value=start)
    cut_out.replace_input_with(1, other)
    assert compute_by_strips(model.graph) == 0
