"""``edgefold task export-model`` of a version with a base change, held against sums that this file does by itself.

The service folds what two devices send in two rounds; what the model must be then follows from what they sent by the
law that both strategies claim: after a round the base with the adapter is the mean of the devices' own.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import edgefold as front
from aggregator import model_export
from protocol.messages import Work
from protocol.plan import Codec, Plan
from tests.aggregator.front_door import write_config
from tests.aggregator.workbench import TASK, Bench

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from export.bundle import Exported
    from protocol.layout import Layout

N_EXAMPLES = {"a": 30, "b": 10}
N_ROUNDS = 2
MOVED = 0.15  # of each value of an update: enough for factors to be far from the mean of products


@dataclass
class Sums:
    """The model by hand, in float64: adapter and dense weights (without the bundle's own) by tensor."""

    layout: Layout
    initial: NDArray[np.float64]
    has_fresh_lora: bool  # after each round, as FLoRA's
    adapter: NDArray[np.float64] = field(init=False)
    base: dict[str, NDArray[np.float64]] = field(init=False)

    def __post_init__(self) -> None:
        self.adapter = self.initial
        self.base = {name: np.zeros_like(dense) for name, dense in self.products(self.initial).items()}

    def tensors(self, vector: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {s.name: vector[s.offset :][: int(np.prod(s.shape))].reshape(s.shape) for s in self.layout.tensors}

    def products(self, vector: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Give s B A by the name of its layer."""
        tensors = self.tensors(vector)
        factors = {s.name.removesuffix(".lora_A"): s.scale for s in self.layout.tensors if s.role == "lora_A"}
        return {name: s * tensors[f"{name}.lora_B"] @ tensors[f"{name}.lora_A"] for name, s in factors.items()}

    def weights(self) -> dict[str, NDArray[np.float64]]:
        """Give what is added to each layer's own weights."""
        own = self.products(self.adapter)
        return {name: change + own[name] for name, change in self.base.items()}

    def fold(self, deltas: dict[str, NDArray[np.float64]]) -> None:
        share = {name: N_EXAMPLES[name] / sum(N_EXAMPLES.values()) for name in deltas}
        local = {name: self.products(self.adapter + delta) for name, delta in deltas.items()}
        mean = sum((share[name] * delta for name, delta in deltas.items()), start=self.adapter)
        target = {
            layer: change + sum(share[name] * local[name][layer] for name in deltas)
            for layer, change in self.base.items()
        }
        if self.has_fresh_lora:
            is_lora = np.zeros(mean.size, bool)
            for slot in self.layout.tensors:
                is_lora[slot.offset :][: int(np.prod(slot.shape))] = slot.role in {"lora_A", "lora_B"}
            mean = np.where(is_lora, self.initial, mean)
        own = self.products(mean)
        self.adapter, self.base = mean, {layer: dense - own[layer] for layer, dense in target.items()}


def folded(folder: Path, exported: Exported, strategy: str, options: dict[str, Any]) -> tuple[Bench, Sums]:
    """Let a service in ``folder`` fold two rounds; return it and the same by hand."""
    folder.mkdir()
    shutil.copytree(exported.folder, folder / "bundle")
    plan = Plan(codec=Codec(name="float32"))
    bench = Bench(folder, strategy=strategy, strategy_options=options, rounds=N_ROUNDS, plan=plan)
    layout = bench.setup.bundle.layout
    initial = np.fromfile(exported.folder / "adapter.f32", "<f4").astype(np.float64)
    sums = Sums(layout, initial, has_fresh_lora=strategy == "flora")
    devices = [bench.device(name) for name in N_EXAMPLES]
    for number in range(N_ROUNDS):
        deltas = {}
        for device in devices:
            device.join()
            bench.settle()
        for device in devices:
            rank = options.get("ranks", {}).get(device.name, exported_rank(layout))
            whole, sent = a_delta(layout, rank, seed=[number, *device.name.encode()])
            deltas[device.name] = whole
            device.update(delta=sent, n_examples=N_EXAMPLES[device.name], work=device.last(Work))
            bench.settle()
        sums.fold(deltas)
    assert bench.version == N_ROUNDS
    return bench, sums


def exported_rank(layout: Layout) -> int:
    return next(slot.shape[0] for slot in layout.tensors if slot.role == "lora_A")


def a_delta(layout: Layout, rank: int, *, seed: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Give a delta of the first ``rank`` rows of A and columns of B: the whole vector, and what is sent of it."""
    drawn = np.random.default_rng(seed).normal(0, MOVED, layout.n_params).astype(np.float32)
    is_sent = np.ones(layout.n_params, bool)
    for slot in layout.tensors:
        here = is_sent[slot.offset :][: int(np.prod(slot.shape))].reshape(slot.shape)
        if slot.role == "lora_A":
            here[rank:] = False
        elif slot.role == "lora_B":
            here[:, rank:] = False
    return np.where(is_sent, drawn, 0).astype(np.float64), drawn[is_sent]


def logits_of(tiny_folder: Path, sums: Sums, changes: dict[str, NDArray[np.float64]], batch: Any) -> Any:
    """Give the logits of PyTorch's own model with ``changes`` added to its layers and the head of ``sums``."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=3).eval()
    parameters = dict(model.named_parameters())
    head = {name: one for name, one in sums.tensors(sums.adapter).items() if "lora_" not in name}
    assert set(head) == {"classifier.weight", "classifier.bias"}
    with torch.no_grad():
        for name, value in head.items():
            parameters[name].copy_(torch.from_numpy(value))
        for layer, change in changes.items():
            parameters[f"{model.base_model_prefix}.{layer}.weight"] += torch.from_numpy(change)
    return run(model, batch)


def run(model: Any, batch: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = model(
            **{name: torch.from_numpy(one) for name, one in batch.items()}
        ).logits.numpy()
    return logits


@pytest.fixture
def edgefold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the front door here, and what it starts too: a process of the exporter's takes 10 s to import PyTorch.

    That it is one is seen in tests/deploy/test_task_commands.py.
    """

    def front_door(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["edgefold", *arguments])
        with pytest.raises(SystemExit) as ended:
            front.main()
        return int(ended.value.code or 0)

    def started(command: list[str], *, check: bool) -> CompletedProcess[str]:
        assert not check
        assert command[:3] == [sys.executable, "-m", "edgefold"]
        return CompletedProcess(command, front_door(*command[3:]))

    def run_(*arguments: str) -> str:
        capsys.readouterr()
        code = front_door(*arguments)
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    monkeypatch.setattr(model_export.subprocess, "run", started)
    return run_


@pytest.mark.parametrize(("strategy", "options"), [("fedex-lora", {}), ("flora", {"ranks": {"a": 1}})])
def test_a_version_keeps_the_mean_of_the_devices_models(
    strategy: str, options: dict[str, Any], exported: Exported, tmp_path: Path
) -> None:
    bench, sums = folded(tmp_path / "service", exported, strategy, options)
    kept = bench.runner.versions.state(N_ROUNDS)
    base = np.concatenate([dense.reshape(-1) for dense in sums.base.values()])
    np.testing.assert_allclose(kept["adapter"], sums.adapter, atol=1e-6)
    np.testing.assert_allclose(kept["base"], base, atol=1e-6)
    assert float(np.abs(base).max()) > 0.01


@pytest.mark.filterwarnings("ignore")  # of transformers: a head that the folder does not have is drawn
def test_an_exported_version_is_the_base_with_its_change_and_the_adapter(
    exported: Exported,
    tiny_folder: Path,
    edgefold: Callable[..., str],
    make_batch: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    bench, sums = folded(tmp_path / "service", exported, "fedex-lora", {})
    bench.stop()
    out = tmp_path / "model"
    arguments = ("--config", str(write_config(tmp_path / "service")), "--out", str(out), "--model", str(tiny_folder))
    said = edgefold("task", "export-model", TASK, str(N_ROUNDS), *arguments, "--json")
    assert json.loads(said)["folder_error"] is not None

    batch = make_batch(5, 9, seed=1)
    del batch["labels"]
    expected = logits_of(tiny_folder, sums, sums.weights(), batch)
    folder = run(AutoModelForSequenceClassification.from_pretrained(out / "huggingface").eval(), batch)
    np.testing.assert_allclose(folder, expected, atol=1e-4)
    (graph,) = onnxruntime.InferenceSession(out / "model.onnx").run(["logits"], batch)
    np.testing.assert_allclose(graph, expected, atol=1e-4)
    # The change is a part of it that shows: the adapter alone gives other logits.
    adapter_alone = logits_of(tiny_folder, sums, sums.products(sums.adapter), batch)
    assert float(np.abs(adapter_alone - expected).max()) > 0.05
