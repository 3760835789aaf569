"""DP-SGD through the trainer's process, on a bundle as it is exported."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from host.arrays import save_vector
from host.trainer_process import run_job
from protocol import codec
from protocol.jobs import UPDATE_FILE, TrainJob
from protocol.messages import Codec, Optimizer, Plan, SampleDp

if TYPE_CHECKING:
    from pathlib import Path

    from export.bundle import Exported

N_EXAMPLES = 12


def delta_of(exported: Exported, folder: Path, name: str, plan: Plan, *, residual: Path | None = None) -> np.ndarray:
    data = folder / "data.jsonl"
    lines = [
        {"text": " ".join(f"w{2 + (7 * i + j) % 90}" for j in range(1 + i % 5)), "label": i % 3} for i in range(12)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
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
