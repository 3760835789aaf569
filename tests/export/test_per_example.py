"""The graph of single examples as it is exported, through the runtime that devices use."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from edge_agent.trainer.example_gradients import clipped_points
from edge_agent.trainer.jobs import train
from edge_agent.trainer.portable import open_engine
from export.adapt import Options
from export.bundle import _facts, export_bundle
from export.bundle_commands import inspect_command, verify_command
from export.inspect import inspect
from export.inspect_page import page
from export.verify import verify
from host.bundle_folder import open_bundle
from protocol.bundle import MANIFEST, Manifest
from protocol.errors import BundleError, ConfigError, EngineError
from protocol.jobs import TrainJob
from protocol.per_example import LOSSES, NORMS, POINTS, RADIUS
from protocol.plan import Plan, SampleDp
from tests.export.test_private_training import written

if TYPE_CHECKING:
    from pathlib import Path

    from export.adapt import Adapted
    from export.bundle import Exported

GRAPH = "train-per-example.onnx"
# Of a clip for each example, on the grid: rounding of float32 (1e-6) and a point of the grid for a part of 600 values.
CLOSE = 3e-5
MakeBatch = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def exported(tiny_folder: Path, options: Options, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = replace(options, per_example=True)
        return export_bundle(str(tiny_folder), own, tmp_path_factory.mktemp("single") / "bundle")


@pytest.mark.parametrize(("n_examples", "n_tokens"), [(1, 20), (2, 1), (5, 11), (16, 7)])
@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_the_sum_is_that_of_batches_of_one_at_any_batch_and_length(
    n_examples: int, n_tokens: int, clip: float, exported: Exported, adapted: Adapted, make_batch: MakeBatch
) -> None:
    engine = open_engine(exported.folder, exported.manifest, threads=1)
    batch = make_batch(n_examples, n_tokens)
    theta = adapted.theta + np.random.default_rng(1).normal(0, 0.1, adapted.theta.size).astype(np.float32)
    counts = np.ones(n_examples, np.float32)
    counts[2::4] = 0
    losses, norms, points = engine.clipped_points(theta, batch, counts=counts, clip=clip)
    expected = np.zeros(theta.size, np.int64)
    for i in range(n_examples):
        longest = int(batch["attention_mask"][i].sum())
        one = {name: (value[i] if value.ndim == 1 else value[i, :longest])[None] for name, value in batch.items()}
        loss, gradient = engine.loss_and_gradient(theta, one)
        assert losses[i] == pytest.approx(loss, rel=1e-5)
        assert norms[i] == pytest.approx(float(np.linalg.norm(gradient)), rel=1e-5)
        expected += int(counts[i]) * clipped_points(gradient, clip=clip)
    assert np.linalg.norm(points - expected) <= CLOSE * RADIUS * n_examples


def test_the_report_and_the_inspection_say_that_it_is_there(exported: Exported) -> None:
    found = inspect(exported.folder)
    assert found.manifest.engines["portable"].per_example == GRAPH
    (graph,) = [one for one in found.graphs if one.file == GRAPH]
    assert set(graph.outputs) == {LOSSES, NORMS, POINTS}
    assert exported.report.per_example is not None
    assert max(exported.report.per_example.values()) < 1e-4


@pytest.mark.parametrize("form", [{"checkpoint": True}, {"precision": "nb8"}, {"precision": "nb4", "checkpoint": True}])
def test_few_bits_and_layers_computed_again_go_with_it(
    form: dict[str, Any], tiny_folder: Path, options: Options, tmp_path: Path
) -> None:
    own = replace(options, per_example=True, **form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = export_bundle(str(tiny_folder), own, tmp_path / "bundle")
    assert exported.report.per_example is not None
    assert max(exported.report.per_example.values()) < 1e-4


def test_its_backward_waits_for_its_turn_too(exported: Exported) -> None:
    held = [node for node in onnx.load(exported.folder / GRAPH).graph.node if node.name.endswith(".in_time")]
    assert len(held) >= 4  # two layers of two norms


def test_its_memory_plan_stands_beside_that_of_the_other_graph(exported: Exported) -> None:
    train, single = exported.manifest.memory, exported.manifest.memory_per_example
    assert train is not None
    assert single is not None
    assert [(one.batch, one.seq) for one in single] == [(one.batch, one.seq) for one in train]
    assert all(one.peak_bytes > other.peak_bytes for one, other in zip(single, train, strict=True))
    printed = CliRunner().invoke(inspect_command, [str(exported.folder)])
    assert "with a gradient for each example; tokens:" in printed.output
    assert "With a gradient for each example" in page(inspect(exported.folder))


def vouched(folder: Path, name: str) -> None:
    """Let the manifest name ``name`` as the graph of single examples, with the hashes of what lies there."""
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    files = {one: _facts(folder / one) for one in manifest.files}
    engines = {"portable": replace(manifest.engines["portable"], per_example=name)}
    (folder / MANIFEST).write_bytes(replace(manifest, files=files, engines=engines).to_bytes())


def private_training(bundle: Path, folder: Path, *, one_by_one: bool = False) -> None:
    plan = Plan(batch_size=6, dp=SampleDp(clip=0.5, noise_multiplier=1.0))
    data = written(folder / "data.jsonl")
    job = TrainJob(bundle=str(bundle), data=str(data), out=str(folder), plan=plan, one_by_one=one_by_one)
    train(job, lambda _: None, started=time.monotonic())


@pytest.mark.parametrize("name", ["train.onnx", "eval.onnx"])
def test_a_manifest_that_names_another_graph_for_it_ends_the_training(name: str, copied: Path, tmp_path: Path) -> None:
    vouched(copied, name)
    (copied / GRAPH).unlink()
    manifest = Manifest.from_bytes((copied / MANIFEST).read_bytes())
    files = {one: facts for one, facts in manifest.files.items() if one != GRAPH}
    (copied / MANIFEST).write_bytes(replace(manifest, files=files).to_bytes())
    with pytest.raises(BundleError, match=r"outputs|inputs"):
        private_training(copied, tmp_path)
    private_training(copied, tmp_path, one_by_one=True)  # whoever does not believe it does not need it


def test_verify_holds_it_against_the_training_graph(exported: Exported) -> None:
    found = verify(exported.folder).examples
    assert found is not None
    assert 0 < max(found.loss, found.norm, found.sum) < 1e-4
    printed = CliRunner().invoke(verify_command, [str(exported.folder)])
    assert "single examples: their graph agrees with one at a time" in printed.output


def test_verify_finds_another_graph_in_its_place(copied: Path) -> None:
    vouched(copied, "eval.onnx")
    with pytest.raises(EngineError, match="no graph of single examples"):
        verify(copied)


def test_a_graph_that_adds_of_its_own_to_the_sum_is_found_out(copied: Path, tmp_path: Path) -> None:
    model = onnx.load(copied / GRAPH, load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["honest" if name == POINTS else name for name in node.output]
    model.graph.node.append(helper.make_node("Add", ["honest", "more"], [POINTS]))
    model.graph.initializer.append(helper.make_tensor("more", TensorProto.INT32, [1], [20_000]))
    onnx.save(model, copied / GRAPH)
    vouched(copied, GRAPH)
    open_bundle(copied)  # its graphs are of allowed operators, and well hashed
    with pytest.raises(BundleError, match="something else"):
        private_training(copied, tmp_path)
    with pytest.raises(EngineError, match="does not agree with the training graph"):
        verify(copied)


def test_dropout_and_tasks_that_compare_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match="--dropout"):
        Options(n_labels=2, dropout=0.1, per_example=True)
    with pytest.raises(ConfigError, match="compares"):
        Options(task="sentence-embedding", per_example=True)
