"""The contract of every engine, through the trainer's pipe: one suite, inherited by each.

The engines' environments are installed once, into ``$EDGEFOLD_ENGINES`` or ``.cache/engines`` (``make engines``, which
``.ci/run`` does first). A machine without them skips and says so; where ``CI`` is set that is a failure.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from export.adapt import Options
from export.bundle import Exported, export_bundle
from export.parity import compare, optimizer_of, run_engine
from export.problems import Problem, make_problem
from export.reference import run_torch
from export.verify import verify
from host.arrays import load_npz, load_vector, save_vector
from host.bundle_folder import open_bundle
from host.engines import environment_of
from host.trainer_process import Launch, run_job
from models.tasks import TASKS
from models.tiny import TINY, write_tiny
from protocol.errors import BundleError, ConfigError, EngineError
from protocol.jobs import CheckJob, EvaluateJob, TrainJob
from protocol.plan import Codec, Optimizer, Plan

if TYPE_CHECKING:
    from export.adapt import Adapted

ROOT = Path(__file__).parents[2]
ENGINES = ("portable", "ort-training", "litert")
NEEDED = ("ort-training", "litert", "litert-export")
IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test exports


@pytest.fixture(scope="module")
def engines_folder() -> Path:
    """Return the folder of the engines, all of them installed."""
    folder = Path(os.environ.get("EDGEFOLD_ENGINES") or ROOT / ".cache" / "engines")
    missing = [name for name in NEEDED if environment_of(name, folder=folder).state != "installed"]
    if missing:
        (pytest.fail if IN_CI else pytest.skip)(f"not installed: {', '.join(missing)}; run: make engines")
    os.environ["EDGEFOLD_ENGINES"] = str(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(
    engines_folder: Path, tiny_folder: Path, options: Options, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """Return one bundle with the artifacts of every engine."""
    assert engines_folder.is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export_bundle(str(tiny_folder), options, tmp_path_factory.mktemp("all") / "bundle", engines=ENGINES)


@pytest.fixture(scope="module")
def problem(adapted: Adapted) -> Problem:
    return make_problem(adapted.theta, adapted.layout, adapted.inputs, seed=41, n_steps=8)


class EngineContract:
    """What any engine promises; a subclass names it."""

    name = ""

    def test_eight_steps_at_any_batch_and_length_agree_with_pytorch(
        self, bundle: Exported, adapted: Adapted, problem: Problem
    ) -> None:
        loss, update, logits = compare(
            problem, run_torch(adapted, problem), run_engine(bundle.folder, problem, engine=self.name)
        )
        assert loss < 1e-5
        assert update < 1e-4
        assert logits < 1e-4

    def test_the_parity_report_has_it(self, bundle: Exported) -> None:
        apart = bundle.report.by_engine[self.name]
        assert 0 <= apart.update < 1e-3

    def test_one_step_moves_by_the_gradient_alone(self, bundle: Exported, problem: Problem) -> None:
        # SGD without momentum: theta - lr * gradient; twice the rate is twice the way, so no state is kept inside.
        first = replace(problem, batches=problem.batches[:1])
        one, two = (_moved(bundle, first, self.name, learning_rate=rate) for rate in (1e-2, 2e-2))
        assert np.abs(two - 2 * one).max() <= 1e-4 * np.abs(two).max()

    def test_the_same_job_gives_the_same_bytes(self, bundle: Exported, problem: Problem) -> None:
        short = replace(problem, batches=problem.batches[:3])
        first, second = (run_engine(bundle.folder, short, engine=self.name) for _ in range(2))
        assert first.theta.tobytes() == second.theta.tobytes()
        assert first.losses == second.losses

    def test_it_trains_and_evaluates_examples(self, bundle: Exported, problem: Problem, tmp_path: Path) -> None:
        lines = [f'{{"text": "w{i} w{i + 1} w{2 * i}", "label": {i % 3}}}' for i in range(2, 13)]
        (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
        plan = Plan(optimizer=optimizer_of(problem), codec=Codec(), batch_size=4, max_tokens=20)
        job = TrainJob(
            bundle=str(bundle.folder),
            data=str(tmp_path / "data.jsonl"),
            out=str(tmp_path),
            plan=plan,
            engine=self.name,
        )
        done = run_job(job, deadline_s=120)
        assert done.n_examples == 11
        assert done.update_norm > 0
        scored = run_job(
            EvaluateJob(bundle=job.bundle, sets={"all": job.data}, engine=self.name, batch_size=4), deadline_s=120
        )
        assert scored.sets["all"].n_examples == 11
        assert 0 < scored.sets["all"].loss < 20

    def test_an_adapter_of_another_length_is_refused(self, bundle: Exported, problem: Problem) -> None:
        with pytest.raises((ConfigError, BundleError, EngineError)):
            run_engine(bundle.folder, replace(problem, theta=problem.theta[:-1]), engine=self.name)

    def test_a_batch_without_labels_is_the_callers_fault(self, bundle: Exported, problem: Problem) -> None:
        batch = {name: array for name, array in problem.batches[0].items() if name != "attention_mask"}
        with pytest.raises(ConfigError):
            run_engine(bundle.folder, replace(problem, batches=(batch,)), engine=self.name)

    def test_a_bundle_without_its_graphs_is_refused_by_name(self, exported: Exported, problem: Problem) -> None:
        if self.name == "portable":
            return
        with pytest.raises(BundleError, match=f"no graphs for the engine '{self.name}'"):
            run_engine(exported.folder, problem, engine=self.name)

    def test_graphs_that_are_none_are_the_bundles_fault(
        self, bundle: Exported, problem: Problem, tmp_path: Path
    ) -> None:
        copy = _copy(bundle.folder, tmp_path / "bundle")
        _reseal(copy, bundle.manifest.engines[self.name].train)
        with pytest.raises(BundleError):
            run_engine(copy, problem, engine=self.name)

    def test_its_trainer_loads_no_torch_and_no_other_runtime(self, bundle: Exported) -> None:
        import subprocess

        code = (
            "import sys; from pathlib import Path; from host.bundle_folder import open_bundle\n"
            "from edge_agent.trainer.engines import open_engine\n"
            f"b = open_bundle(Path({str(bundle.folder)!r}))\n"
            f"open_engine({self.name!r}, b.folder, b.manifest, threads=1)\n"
            "heavy = {'torch', 'onnx', 'onnxruntime', 'ai_edge_litert', 'tflite_runtime', 'jax'}\n"
            "print(sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run(
            [environment_of(self.name).interpreter, "-c", code], capture_output=True, text=True, check=True, timeout=120
        )
        wanted = {"portable": "onnxruntime", "ort-training": "onnxruntime", "litert": "ai_edge_litert"}[self.name]
        assert done.stdout == f"['{wanted}']\n"


class TestPortable(EngineContract):
    name = "portable"


class TestOrtTraining(EngineContract):
    name = "ort-training"


class TestLitert(EngineContract):
    name = "litert"


@pytest.mark.parametrize("adapter", ["lora", "soft-prompt"])
def test_a_decoder_is_trained_by_every_engine(adapter: str, engines_folder: Path, tmp_path: Path) -> None:
    # Its loss picks one word of many a token, its scores are two outputs of one shape, and a soft prompt is one tensor.
    assert engines_folder.is_dir()
    write_tiny("gpt2", tmp_path / "gpt2")
    options = Options(task="causal-lm", adapter=adapter, max_tokens=40, rank=2, n_virtual=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = export_bundle(str(tmp_path / "gpt2"), options, tmp_path / "bundle", engines=ENGINES).report
    assert {name for name, apart in report.by_engine.items() if apart.update < 1e-4 and apart.logits < 1e-4} == {
        *ENGINES
    }


@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        pytest.param("dinov2", "full", id="a-part-that-the-model-has-idle"),
        pytest.param("deit", "bitfit", id="two-tokens-of-the-same-values"),
        pytest.param("clip", "ia3", id="a-sigmoid-in-an-activation"),
        pytest.param("clip", "full", id="a-row-of-positions-for-all-texts"),
        pytest.param("patchtst", "lora", id="a-normalisation-by-kept-statistics"),
    ],
)
def test_what_onnxruntime_training_derives_wrongly_from_a_graph_as_it_is(
    family: str, adapter: str, engines_folder: Path, tmp_path: Path
) -> None:
    assert engines_folder.is_dir()
    write_tiny(family, tmp_path / family)
    task = TINY[family].task
    options = Options(task=task, n_labels=3 if TASKS[task].has_labels else None, adapter=adapter, max_tokens=40)
    engines = ("portable", "ort-training")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = export_bundle(str(tmp_path / family), options, tmp_path / "bundle", engines=engines).report
    assert report.by_engine["ort-training"].update < 1e-4


def test_verify_runs_every_engine_that_is_here(bundle: Exported) -> None:
    found = verify(bundle.folder)
    assert set(found.engines) == set(ENGINES)
    assert found.skipped == {}


def test_verify_names_the_engines_that_are_not_here(
    bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFOLD_ENGINES", str(tmp_path))
    found = verify(bundle.folder)
    assert set(found.engines) == {"portable"}
    assert "edgefold engine install litert" in found.skipped["litert"]


def test_the_engines_share_the_weights(bundle: Exported) -> None:
    manifest = open_bundle(bundle.folder).manifest
    assert manifest.files[manifest.engines["ort-training"].train].bytes < manifest.files["weights.bin"].bytes


def _moved(bundle: Exported, problem: Problem, engine: str, *, learning_rate: float) -> np.ndarray:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "batches.npz", **{f"0/{key}": value for key, value in problem.batches[0].items()})
        save_vector(folder / "theta_0.f32", problem.theta)
        optimizer = Optimizer(name="sgd", learning_rate=learning_rate, beta1=0.0, weight_decay=0.0)
        job = CheckJob(
            bundle=str(bundle.folder),
            batches=str(folder / "batches.npz"),
            theta=str(folder / "theta_0.f32"),
            n_steps=1,
            optimizer=optimizer,
            out=str(folder),
            engine=engine,
        )
        run_job(job, deadline_s=120, launch=Launch())
        assert load_npz(folder / "logits.npz")["0"].shape[1] == 3
        return load_vector(folder / "theta.f32", n_values=problem.theta.size) - problem.theta


def _copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def _reseal(folder: Path, name: str) -> None:
    import hashlib
    import json

    data = b"no graph"
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
