"""DP-SGD through the trainer's process, on a bundle as it is exported."""

from __future__ import annotations

import json
import queue
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.adapters.sample_record import SampleRecord
from host.arrays import save_vector
from host.trainer_process import TrainerProcess, run_job
from protocol import codec
from protocol.errors import ConfigError
from protocol.jobs import UPDATE_FILE, Progress, SampleCharge, TrainJob
from protocol.plan import Codec, Optimizer, Plan, SampleDp

if TYPE_CHECKING:
    from pathlib import Path

    from export.bundle import Exported

N_EXAMPLES = 12


def written(data: Path) -> Path:
    lines = [
        {"text": " ".join(f"w{2 + (7 * i + j) % 90}" for j in range(1 + i % 5)), "label": i % 3} for i in range(12)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data


def delta_of(exported: Exported, folder: Path, name: str, plan: Plan, *, residual: Path | None = None) -> np.ndarray:
    data = written(folder / "data.jsonl")
    out = folder / name
    out.mkdir()
    job = TrainJob(
        bundle=str(exported.folder),
        data=str(data),
        out=str(out),
        plan=plan,
        residual=None if residual is None else str(residual),
    )
    result = run_job(job, deadline_s=120)
    assert (result.n_examples, result.n_steps) == (N_EXAMPLES, 3)
    return codec.decode((out / UPDATE_FILE).read_bytes(), n_values=exported.manifest.adapter.n_params)


def test_a_private_update_has_the_noise_of_its_plan_and_nothing_of_an_earlier_residual(
    exported: Exported, tmp_path: Path
) -> None:
    n_params = exported.manifest.adapter.n_params
    optimizer = Optimizer(name="sgd", learning_rate=1.0, weight_decay=0.0, beta1=0.0)
    dp = SampleDp(clip=1e-3, noise_multiplier=50.0)  # the noise is all that there is to see
    plan = Plan(batch_size=4, optimizer=optimizer, codec=Codec(name="float32"), dp=dp)
    save_vector(tmp_path / "residual.f32", np.full(n_params, 100, np.float32))
    one, other = (
        delta_of(exported, tmp_path, name, plan, residual=tmp_path / "residual.f32") for name in ("one", "other")
    )
    assert not np.array_equal(one, other)
    deviation = dp.clip * dp.noise_multiplier / 4 * np.sqrt(3)  # three steps
    # n_params samples: four standard errors of a deviation.
    assert abs(float(one.std()) / deviation - 1) < 4 / np.sqrt(2 * n_params)


def test_a_training_that_is_killed_was_counted_whole_and_one_beyond_the_bound_never_begins(
    exported: Exported, tmp_path: Path
) -> None:
    plan = Plan(epochs=1000, batch_size=4, dp=SampleDp(clip=1.0, noise_multiplier=30.0))
    terms = SampleCharge(folder=str(tmp_path), task="t", training_id="0" * 32, max_epsilon=30.0, delta=1e-5)
    job = TrainJob(
        bundle=str(exported.folder),
        data=str(written(tmp_path / "data.jsonl")),
        out=str(tmp_path),
        plan=plan,
        sample_charge=terms,
    )
    said: queue.SimpleQueue[object] = queue.SimpleQueue()
    process = TrainerProcess(job, on_end=said.put, on_progress=said.put)
    assert isinstance(said.get(timeout=120), Progress)
    process.close()
    assert SampleRecord(tmp_path).n_steps() == 3000
    assert not (tmp_path / UPDATE_FILE).exists()
    bound = replace(terms, training_id="1" * 32, max_epsilon=SampleRecord(tmp_path).epsilon(delta=1e-5))
    with pytest.raises(ConfigError, match="max_sample_epsilon"):
        run_job(replace(job, sample_charge=bound), deadline_s=120)
    assert SampleRecord(tmp_path).n_steps() == 3000
