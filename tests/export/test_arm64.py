"""The trainer on arm64, emulated: the same three steps as on this machine. ``make test-arm64`` runs it."""

from __future__ import annotations

import os
import platform
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from export.adapt import Options
from export.bundle import export_bundle
from export.engines import default_bucket
from export.parity import Outcome, compare, optimizer_of
from export.problems import Inputs, Problem, make_problem
from host.arrays import load_npz, load_vector, save_vector
from host.bundle_folder import open_bundle
from host.trainer_process import Launch, run_job
from protocol.bundle import ADAPTER
from protocol.jobs import CheckJob
from tests.export import userland

ROOT = Path(__file__).parents[2]
CLOSE = 1e-4
N_STEPS = 3
DEADLINE_S = 900.0  # a step of MiniLM takes half a minute under emulation

pytestmark = [pytest.mark.arm64, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def arm64() -> Path:
    if os.environ.get("EDGEFOLD_ARM64", "").lower() not in {"1", "true"}:
        pytest.skip("takes minutes; run: make test-arm64")
    missing = userland.missing_tools()
    assert not missing, f"install {', '.join(missing)} (Debian: qemu-user-static, mmdebstrap)"
    return userland.make(Path(os.environ.get("EDGEFOLD_ARM64_FOLDER") or ROOT / ".cache" / "arm64"))


def test_three_steps_of_minilm_by_the_portable_engine(arm64: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_bundle("minilm", Options(n_labels=2, max_tokens=64), tmp_path / "bundle")
    _compare(tmp_path / "bundle", "portable", arm64, vocabulary=30522)


def test_three_steps_of_a_small_model_by_tflite(arm64: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = Options(n_labels=3, rank=2, alpha=4.0, max_tokens=20, seed=3)
        engines = ("portable", "litert")
        export_bundle(str(tiny_folder), options, tmp_path / "bundle", engines=engines, buckets=(default_bucket(20),))
    _compare(tmp_path / "bundle", "litert", arm64, vocabulary=211)


def _compare(bundle: Path, engine: str, arm64: Path, *, vocabulary: int) -> None:
    """Train there with ``engine`` and here with the portable engine."""
    problem = _problem(bundle, vocabulary)
    here = _train(bundle, problem, "portable", Launch())
    there = _train(bundle, problem, engine, Launch(interpreter=str(userland.interpreter(arm64, engine, packages=ROOT))))
    # Steps of 1e-3, as in every parity check: of values whose gradient is rounding AdamW makes whole steps.
    apart = float(np.abs(here.theta - there.theta).max())
    losses, update, _ = compare(problem, here, there)
    errors = f"losses {losses:.1e}, parameters {apart:.1e}, update {update:.1e}"
    print(f"{engine} on arm64 against {platform.machine()}: {errors}")  # noqa: T201
    assert np.abs(here.theta - problem.theta).max() > 10 * CLOSE  # it moved
    assert losses < CLOSE
    assert apart < CLOSE
    assert update < 10 * CLOSE  # as the parity check asks of every engine


def _problem(bundle: Path, vocabulary: int) -> Problem:
    opened = open_bundle(bundle)
    facts = opened.manifest
    assert facts.tokens is not None
    inputs = Inputs(vocabulary=vocabulary, max_tokens=facts.tokens.max_tokens, n_labels=facts.task.n_labels)
    theta = load_vector(bundle / ADAPTER, n_values=facts.adapter.n_params)
    return make_problem(theta, opened.layout, inputs, seed=5, n_steps=N_STEPS)


def _train(bundle: Path, problem: Problem, engine: str, launch: Launch) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = {f"{step}/{key}": value for step, batch in enumerate(problem.batches) for key, value in batch.items()}
        np.savez(folder / "batches.npz", allow_pickle=False, **arrays)
        save_vector(folder / "theta_0.f32", problem.theta)
        job = CheckJob(
            bundle=str(bundle),
            batches=str(folder / "batches.npz"),
            theta=str(folder / "theta_0.f32"),
            n_steps=len(problem.batches),
            optimizer=optimizer_of(problem),
            out=str(folder),
            engine=engine,
        )
        done = run_job(job, deadline_s=DEADLINE_S, launch=launch)
        theta = load_vector(folder / "theta.f32", n_values=problem.theta.size)
        logits = load_npz(folder / "logits.npz")
    return Outcome(losses=done.losses, theta=theta, logits=tuple(logits[str(i)] for i in range(N_STEPS)))
