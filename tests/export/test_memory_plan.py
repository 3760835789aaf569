"""Predicted memory: the walk over a graph by hand, and against a trainer process."""

import onnx_ir as ir

from export.bundle import Exported
from export.memory_plan import OPERATION_BYTES, Sizes, activation_bytes, plan_memory, sizes_for, weight_bytes

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
graph (float[b, s] x) => (float[b, s] y)
  <float[b, s] p, float[b, s] q, float[b, s] r, float[b, s] t> {
    p = Sin(x)
    q = Cos(p)
    r = Identity(q)
    t = Add(r, p)
    y = Sin(t)
}"""


def _graph() -> ir.Graph:
    graph = ir.from_onnx_text(TEXT).graph
    for node in graph:
        for output in node.outputs:
            output.dtype = ir.DataType.FLOAT
    return graph


def test_values_live_from_their_operation_to_their_last_reader() -> None:
    # p, q and their sum live together, since a sum is never written over what it reads; then the sum and y.
    assert activation_bytes(_graph(), Sizes(batch=3, seq=5)) == 3 * 4 * 3 * 5


def test_what_the_runtime_computes_in_place_takes_no_memory_of_its_own() -> None:
    graph = _graph()
    graph[1].op_type = "Relu"  # q, which is written over p unless p is read later
    assert activation_bytes(graph, Sizes(batch=3, seq=5)) == 3 * 4 * 3 * 5
    graph[3].replace_input_with(1, graph[2].outputs[0])
    assert activation_bytes(graph, Sizes(batch=3, seq=5)) == 2 * 4 * 3 * 5


def test_memory_grows_with_the_batch_and_the_length() -> None:
    found = [activation_bytes(_graph(), one) for one in sizes_for(64)]
    assert found == sorted(found[:5]) + sorted(found[5:])
    assert max(found) == activation_bytes(_graph(), Sizes(batch=16, seq=64))


def test_what_a_session_notes_of_operations_counts() -> None:
    model, sizes = ir.from_onnx_text(TEXT), Sizes(batch=3, seq=5)
    (before,) = plan_memory(model, [sizes], n_params=10)
    views = [ir.Node("", "Identity", [model.graph.inputs[0]]) for _ in range(1000)]
    model.graph.extend(views)
    (after,) = plan_memory(model, [sizes], n_params=10)
    assert after.peak_bytes - before.peak_bytes == 1000 * OPERATION_BYTES


def test_a_bundles_weights_count_once_and_less_in_fewer_bits(exported: Exported) -> None:
    folder = exported.folder
    graph = ir.load(folder / "train.onnx").graph
    whole = weight_bytes(graph, n_tokens=10**6)
    assert whole <= (folder / "weights.bin").stat().st_size + 256 * 1024
    assert weight_bytes(graph, n_tokens=10**6, precision="nb4") < whole
    assert weight_bytes(graph, n_tokens=1) <= whole


def test_lengths_end_at_the_bundles_longest() -> None:
    assert {one.seq for one in sizes_for(100)} == {32, 64, 100}
    assert {one.seq for one in sizes_for(None)} == {0}


def test_the_plan_of_a_bundle_is_in_its_manifest(exported: Exported) -> None:
    memory = exported.manifest.memory
    assert {peak.batch for peak in memory} == {1, 2, 4, 8, 16}
    assert all(peak.peak_bytes > 60 * 2**20 for peak in memory)
