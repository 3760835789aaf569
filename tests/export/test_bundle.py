"""Writing a bundle: whole or not at all."""

import hashlib
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import export.bundle as bundle_pass
from export.adapt import Adapted, Options
from export.bundle import Exported, ParityError, export_bundle
from export.parity import Outcome
from export.problems import Problem
from export.verify import verify
from host.bundle_folder import open_bundle
from protocol.errors import BundleError, ConfigError, EngineError


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, exported: Exported) -> None:
    """Let the long passes give the graphs that the session's export made."""

    def write(folder: Path, *_: object) -> tuple[tuple[None, None], object]:
        for name in ("train.onnx", "eval.onnx", "weights.bin", "base.json"):
            (folder / name).write_bytes((exported.folder / name).read_bytes())
        return (None, None), bundle_pass.MemoryPlans(exported.manifest.memory, None)

    monkeypatch.setattr(bundle_pass, "_write_graphs", write)
    warnings.simplefilter("ignore")


def test_the_bundle_is_what_its_manifest_says_and_its_id_the_manifests_hash(exported: Exported) -> None:
    assert open_bundle(exported.folder).id == exported.id
    assert hashlib.sha256((exported.folder / "manifest.json").read_bytes()).hexdigest() == exported.id


def test_parity_covers_one_example_one_token_and_the_longest_text(options: Options, exported: Exported) -> None:
    report = json.loads((exported.folder / "parity.json").read_text())
    assert report["steps"] == 20
    assert {(1, 1), (1, 9), (2, options.max_tokens)} <= {tuple(shape) for shape in report["shapes"]}
    assert report["update_error"] <= 1e-3


def test_the_same_input_gives_the_same_bytes(
    options: Options, exported: Exported, tiny_folder: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = export_bundle(str(tiny_folder), options, tmp_path / "again")
    assert again.id == exported.id


@pytest.mark.usefixtures("quick")
def test_graphs_that_disagree_with_pytorch_are_not_written(
    options: Options, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = bundle_pass.run_torch

    def off_by_a_percent(adapted: Adapted, problem: Problem) -> Outcome:
        outcome = honest(adapted, problem)
        return replace(outcome, theta=problem.theta + (outcome.theta - problem.theta) * np.float32(1.01))

    monkeypatch.setattr(bundle_pass, "run_torch", off_by_a_percent)
    with pytest.raises(ParityError, match="nothing was written") as caught:
        export_bundle(str(tiny_folder), options, tmp_path / "bundle")
    assert caught.value.report.update_error == pytest.approx(0.01, rel=0.05)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_an_older_bundle_is_replaced_and_nothing_is_left_beside_it(
    options: Options, copied: Path, tiny_folder: Path, exported: Exported
) -> None:
    (copied / "adapter.f32").write_bytes(b"old")
    assert export_bundle(str(tiny_folder), options, copied).id == exported.id
    assert open_bundle(copied).id == exported.id
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]


def test_a_folder_that_is_no_bundle_is_never_replaced(options: Options, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("four years")
    with pytest.raises(ConfigError, match="no bundle"):
        export_bundle(str(tiny_folder), options, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "four years"


def test_verify_repeats_the_first_steps_without_torch(exported: Exported) -> None:
    code = (
        "import sys; from pathlib import Path; from export.verify import verify\n"
        f"found = verify(Path({str(exported.folder)!r}))\n"
        "assert found.max_relative_loss_error < 1e-4, found\n"
        "print(found.id, sorted({'torch', 'onnx', 'transformers', 'onnxruntime'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root, env=os.environ
    )
    assert done.stdout.split(maxsplit=1) == [exported.id, "[]\n"]


@pytest.mark.parametrize("name", ["train.onnx", "weights.bin", "layout.json", "tokenizer.json", "parity.json"])
def test_verify_refuses_a_bundle_with_one_changed_byte(name: str, copied: Path) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(BundleError, match=name):
        verify(copied)


def test_verify_notices_a_runtime_that_computes_something_else(copied: Path) -> None:
    report = json.loads((copied / "parity.json").read_text())
    report["losses"][3] *= 1.001
    _reseal(copied, "parity.json", json.dumps(report).encode())
    with pytest.raises(EngineError, match="losses are off"):
        verify(copied)


def test_verify_refuses_a_parity_report_without_numbers(copied: Path) -> None:
    _reseal(copied, "parity.json", b"{}")
    with pytest.raises(BundleError, match="parity"):
        verify(copied)


def _reseal(folder: Path, name: str, data: bytes) -> None:
    """Change a file and let the manifest vouch for it, as whoever makes a bundle can."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
