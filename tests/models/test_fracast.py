"""Fracast out of its package: its quantiles are those of the package's own runtime; another file makes nothing."""

from __future__ import annotations

import importlib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from models import fracast_sample
from models.fracast import Fracast, FracastConfig, Periods
from models.quantile_forecasting import loss, scores
from models.samples import package_folder
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def package() -> Path:
    return package_folder("fracast")


@pytest.fixture(scope="module")
def folder(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fracast") / "model"
    fracast_sample.build(package, made)
    return made


def loaded(folder: Path, *, context: int, channels: int) -> Fracast:
    model, said = Fracast.from_pretrained(
        folder, context_length=context, num_input_channels=channels, output_loading_info=True
    )
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert sum(one.numel() for one in model.parameters()) == 85_001  # what the package's page says
    return model.eval()


def some_series(n_steps: int) -> NDArray[np.float32]:
    """Return a sine with noise, a random walk, noise alone, and days of a week, float32 [4, time]."""
    rng, steps = np.random.default_rng(0), np.arange(n_steps)
    days = 50 + 5 * ((steps // 24) % 7 == 0) + 2 * np.sin(2 * np.pi * steps / 24)
    noise = rng.normal(size=(3, n_steps))
    return np.stack([np.sin(steps / 7) + 0.1 * noise[0], noise[1].cumsum(), noise[2], days]).astype(np.float32)


@pytest.mark.parametrize("context", [2048, 100])
def test_the_quantiles_are_those_of_the_packages_own_runtime(folder: Path, context: int) -> None:
    fracast: Any = importlib.import_module("fracast")
    series = some_series(context)
    theirs = fracast.FracastModel.from_pretrained(weights="fp32").forecast_batch(series)  # [4, 48, 9]
    model = loaded(folder, context=context, channels=2)
    with torch.no_grad():
        # Two examples of two channels, time before channels.
        ours = model(torch.from_numpy(series).reshape(2, 2, context).transpose(1, 2)).numpy()
    assert ours.shape == (2, 48, 2, 9)
    # float32 over 16 stages; a wrong weight, phase or period is off by the series' own size.
    assert np.abs(ours.transpose(0, 2, 1, 3).reshape(theirs.shape) - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_the_transform_in_two_steps_is_the_transform() -> None:
    for window in (64, 2048):
        values = torch.from_numpy(np.random.default_rng(1).normal(size=(3, window)).astype(np.float32))
        with torch.no_grad():
            power = Periods(FracastConfig(window=window)).power(values).numpy()
        expected = np.abs(np.fft.rfft(values.numpy().astype(np.float64)))[:, 1:] ** 2
        assert np.abs(power - expected).max() < 1e-5 * expected.max()


def test_periods_are_found_where_they_are_and_noise_has_none() -> None:
    find = Periods(FracastConfig())
    steps = np.arange(2048)
    series = np.stack([np.sin(2 * np.pi * steps / 16), np.random.default_rng(2).normal(size=2048), np.zeros(2048)])
    with torch.no_grad():
        periods = find(torch.from_numpy(series.astype(np.float32)))
    assert periods[0].tolist() == [16, 0, 0, 0]
    assert periods[1:].sum() == 0


def test_the_loss_is_the_absolute_error_at_the_median_and_zero_where_all_quantiles_are_right() -> None:
    series = torch.tensor([[[0.0], [2.0]]])  # deviation 1
    future = torch.tensor([[[3.0]]])
    assert float(loss(torch.full((1, 1, 1, 9), 3.0), series, future)) == 0
    assert math.isclose(float(loss(torch.full((1, 1, 1, 1), 1.0), series, future)), 2.0, rel_tol=1e-4)
    # Levels 1/4, 1/2, 3/4, all 2 below: twice the mean of 0.5, 1, 1.5.
    assert math.isclose(float(loss(torch.full((1, 1, 1, 3), 1.0), series, future)), 2.0, rel_tol=1e-4)
    median, quantiles = scores(torch.arange(9.0).reshape(1, 1, 1, 9))
    assert (median.tolist(), quantiles.shape) == ([[[4.0]]], (1, 1, 1, 9))


def test_another_file_makes_nothing(package: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    made = tmp_path / "made" / "model"
    with pytest.raises(ConfigError, match="no model as version"):
        fracast_sample.build(tmp_path, made)
    facts = json.loads((package / "weights" / "config.json").read_bytes())
    (weights / "config.json").write_text(json.dumps(facts))
    for content in ({}, {"core.unknown": np.zeros(1, np.float32)}):
        save_file(content, weights / "model.safetensors")
        with pytest.raises(ConfigError, match="no model as version"):
            fracast_sample.build(tmp_path, made)
    (weights / "model.safetensors").write_bytes((package / "weights" / "model.safetensors").read_bytes())
    facts["model"]["n_stages"] = 9
    (weights / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="n_stages"):
        fracast_sample.build(tmp_path, made)
    assert not made.exists()
