"""A forecaster of quantiles, and dropout, end to end on tiny random models: exported, verified, trained."""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from export.adapt import Options
from export.bundle import Exported, export_bundle
from export.verify import verify
from host.trainer_process import run_job
from models.tiny import write_tiny
from protocol.errors import ConfigError
from protocol.jobs import UPDATE_FILE, EvaluateJob, TrainJob
from protocol.plan import Codec, Optimizer, Plan

if TYPE_CHECKING:
    from pathlib import Path

# As in test_families: measured below 3e-7 and 2e-6.
LOSS, UPDATE = 1e-5, 1e-4


def exported(name: str, folder: Path, options: Options) -> Exported:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_tiny(name, folder / name)
        return export_bundle(str(folder / name), options, folder / "bundle")


def update_of(bundle: Path, data: Path, name: str, *, seed: int = 0, epochs: int = 1) -> str:
    out = data.parent / name
    out.mkdir()
    plan = Plan(
        epochs=epochs,
        batch_size=4,
        seed=seed,
        optimizer=Optimizer(learning_rate=2e-2),
        codec=Codec(name="float32"),
    )
    run_job(TrainJob(bundle=str(bundle), data=str(data), out=str(out), plan=plan), deadline_s=120)
    return hashlib.sha256((out / UPDATE_FILE).read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_forecaster_of_quantiles_agrees_with_pytorch_and_is_judged_by_its_median(tmp_path: Path) -> None:
    options = Options(task="quantile-forecasting", adapter="lora+bitfit", rank=2, context=40, channels=3)
    one = exported("fracast", tmp_path, options)
    assert (one.report.max_relative_loss_error < LOSS, one.report.update_error < UPDATE) == (True, True)
    assert one.manifest.task.kind == "forecasting"  # to devices it is one like any other
    assert one.manifest.series is not None
    assert (one.manifest.series.context, one.manifest.series.channels) == (40, 3)
    assert verify(one.folder).max_relative_loss_error < LOSS
    for name in ("train.onnx", "eval.onnx"):  # a series has one length, and the graph is told so
        (series,) = (one for one in onnx.load(one.folder / name).graph.input if one.name == "series")
        assert [axis.dim_value for axis in series.type.tensor_type.shape.dim] == [0, 40, 3]
    steps = np.arange(160)
    rows = [",".join(f"{(step % period) / period}" for period in (8, 10, 16)) for step in steps]
    data = tmp_path / "series.csv"
    data.write_text("a,b,c\n" + "\n".join(rows) + "\n")
    job = EvaluateJob(bundle=str(one.folder), sets={"all": str(data)})
    assert run_job(job, deadline_s=120).sets["all"].n_examples == (160 - 46) // 6 + 1  # windows a horizon apart
    assert update_of(one.folder, data, "one") == update_of(one.folder, data, "other")


@pytest.mark.slow
def test_dropout_agrees_with_pytorch_under_the_same_masks_and_trains_the_same_twice(tmp_path: Path) -> None:
    one = exported("distilbert", tmp_path, Options(n_labels=3, rank=2, max_tokens=20, dropout=0.25, checkpoint=True))
    assert (one.report.max_relative_loss_error < LOSS, one.report.update_error < UPDATE) == (True, True)
    assert one.manifest.dropout is not None
    assert one.manifest.dropout.rate == 0.25
    assert verify(one.folder).max_relative_loss_error < LOSS
    data = tmp_path / "data.jsonl"
    lines = [
        {"text": " ".join(f"w{2 + (7 * i + j) % 90}" for j in range(1 + i % 5)), "label": i % 3} for i in range(12)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = update_of(one.folder, data, "one")
    assert first == update_of(one.folder, data, "again")
    # One batch an epoch in any order of seed, but other masks.
    assert first != update_of(one.folder, data, "other", seed=1)
    job = EvaluateJob(bundle=str(one.folder), sets={"all": str(data)})
    losses = {run_job(job, deadline_s=120).sets["all"].loss for _ in range(2)}
    assert len(losses) == 1  # an evaluation drops nothing


def test_a_window_is_chosen_where_the_model_allows_it_and_refused_elsewhere() -> None:
    with pytest.raises(ConfigError, match="pretrained on"):
        Options(task="forecasting", context=100)
    for wrong in ({"context": 7}, {"channels": 0}):
        with pytest.raises(ConfigError, match="at least"):
            Options(task="quantile-forecasting", **wrong)


def test_a_window_longer_than_the_models_is_refused(tmp_path: Path) -> None:
    write_tiny("fracast", tmp_path / "fracast")
    with pytest.raises(ConfigError, match="--context is 65, the model's window has 64"):
        export_bundle(str(tmp_path / "fracast"), Options(task="quantile-forecasting", context=65), tmp_path / "bundle")
