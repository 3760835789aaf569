"""The trainer as its caller meets it: a real process, one job, one honest last line."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from host.trainer_process import Launch, run_job
from protocol import codec
from protocol.errors import BundleError, ConfigError, EdgefoldError, EngineError, UpdateError
from protocol.fields import plain
from protocol.jobs import MAX_LINE_BYTES, CheckJob, EvaluateJob, TrainJob
from protocol.plan import Codec, Optimizer, Plan
from tests.attacks.hostile_bundles import make_bundle, vouch
from tests.edge_agent.trainer.samples import write_tokenizer
from tests.protocol.onnx_bytes import GRAPH

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAN = Plan(optimizer=Optimizer(), codec=Codec())


def answer_to(line: bytes, *options: str) -> tuple[int, dict[str, Any]]:
    """Start a trainer on ``line``; return its exit status and its only line."""
    command = [sys.executable, "-m", "edge_agent.trainer", *options]
    done = subprocess.run(command, input=line, capture_output=True, check=False, timeout=60)
    (only,) = done.stdout.splitlines()
    assert done.stderr == b""
    return done.returncode, json.loads(only)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"", "not a job"),
        (b"hello\n", "not a job"),
        (b"[]\n", "not a job"),
        (b"[" * 100_000 + b"\n", "not a job"),
        (b"{}\n", "unknown job kind"),
        (b'{"kind": "format-disk"}\n', "unknown job kind"),
        (b'{"kind": "train"}\n', "bundle: missing"),
        (b'{"kind": "train", "surprise": 1}\n', "surprise: unknown key"),
        (b'{"kind": "evaluate", "bundle": "b", "sets": {"x": 1}}\n', r"sets.x: expected str, got int"),
        (b'{"kind": "check", "bundle": "b", "n_steps": 0}\n', "batches: missing"),
        (b'{"kind": "' + b"x" * MAX_LINE_BYTES + b'"}\n', "not a job"),
    ],
    ids=range(11),
)
def test_what_is_no_job_is_one_failed_line_that_blames_the_caller(line: bytes, what: str) -> None:
    status, answer = answer_to(line)
    assert status == 1
    assert (answer["kind"], answer["blame"]) == ("failed", "config")
    assert what in answer["error"]


def test_too_little_memory_is_one_failed_line() -> None:
    job = TrainJob(bundle="/none", data="d.jsonl", out="/none", plan=PLAN)
    status, answer = answer_to(json.dumps(plain(job)).encode() + b"\n", f"--memory-limit={10 << 20}")
    assert status == 1
    assert (answer["kind"], answer["blame"]) == ("failed", "engine")
    assert "memory" in answer["error"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a bundle (its graphs compute nothing), data, and a folder for output."""
    make_bundle(tmp_path / "bundle")
    write_tokenizer(tmp_path / "bundle" / "tokenizer.json")
    vouch(tmp_path / "bundle")
    (tmp_path / "out").mkdir()
    (tmp_path / "data.jsonl").write_text('{"text": "the film was good", "label": 1}\n', "utf-8")
    return tmp_path


def train(folder: Path, **changes: object) -> None:
    """Run a training job that differs from a good one by ``changes``."""
    whole: dict[str, Any] = {
        "bundle": str(folder / "bundle"),
        "data": str(folder / "data.jsonl"),
        "out": str(folder / "out"),
        "plan": PLAN,
    }
    run_job(TrainJob(**(whole | changes)), deadline_s=60)


def test_a_missing_bundle_is_the_bundles_fault(folder: Path) -> None:
    with pytest.raises(BundleError, match="no bundle here"):
        train(folder, bundle=str(folder / "none"))


def test_a_changed_bundle_is_the_bundles_fault(folder: Path) -> None:
    (folder / "bundle" / "train.onnx").write_bytes(bytes(len(GRAPH)))
    with pytest.raises(BundleError, match="not what the manifest says"):
        train(folder)


def test_graphs_that_the_runtime_refuses_are_the_bundles_fault(folder: Path) -> None:
    with pytest.raises(BundleError):
        train(folder)
    assert list((folder / "out").iterdir()) == []


def test_a_bad_tokenizer_is_the_bundles_fault(folder: Path) -> None:
    (folder / "bundle" / "tokenizer.json").write_text("{}", "utf-8")
    vouch(folder / "bundle")
    with pytest.raises(BundleError, match="not a tokenizer"):
        train(folder)


@pytest.mark.parametrize("what", ["data", "adapter", "residual"])
def test_a_missing_file_is_the_callers_fault_and_is_named(folder: Path, what: str) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl: no such"):
        train(folder, **{what: str(folder / "none.jsonl")})


def test_a_bad_line_of_data_is_the_owners_fault(folder: Path) -> None:
    (folder / "data.jsonl").write_text('{"text": "x", "label": 2}\n', "utf-8")
    with pytest.raises(ConfigError, match=r"data\.jsonl:1: the label is not one of 0 to 1"):
        train(folder)


def test_an_adapter_of_another_length_is_the_updates_fault(folder: Path) -> None:
    (folder / "adapter").write_bytes(codec.encode(np.zeros(13, np.float32), Codec()))
    with pytest.raises(UpdateError, match="expected 14 values, got 13"):
        train(folder, adapter=str(folder / "adapter"))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: EvaluateJob(bundle=str(folder / "none"), sets={"x": "y"}), BundleError),
        (
            lambda folder: CheckJob(
                bundle=str(folder / "bundle"),
                batches=str(folder / "none.npz"),
                theta=str(folder / "none.f32"),
                n_steps=1,
                optimizer=Optimizer(),
                out=str(folder / "out"),
            ),
            ConfigError,
        ),
    ],
)
def test_other_jobs_blame_in_the_same_way(
    make: Callable[[Path], CheckJob | EvaluateJob], expected: type[EdgefoldError], folder: Path
) -> None:
    with pytest.raises(expected):
        run_job(make(folder), deadline_s=60)  # type: ignore[call-overload]  # each kind has its own overload


def test_a_runtime_that_does_not_fit_is_an_engine_error(folder: Path) -> None:
    job = TrainJob(bundle=str(folder / "bundle"), data=str(folder / "data.jsonl"), out=str(folder / "out"), plan=PLAN)
    with pytest.raises(EngineError):
        run_job(job, deadline_s=60, launch=Launch(memory_limit_bytes=25 << 20))
