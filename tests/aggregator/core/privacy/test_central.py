"""What a device can do to a private fold, and what a clip does over rounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.privacy.adaptive_clip import delta_noise_multiplier, next_clip
from aggregator.core.privacy.central import AdaptiveTerms, CentralTerms, private_mean
from aggregator.core.privacy.clipping import clip_to_grid, grid_for
from aggregator.core.privacy.sampling import PoissonSampling

SEED = bytes(range(32))
N = 50


@given(st.floats(1e-6, 1e6), st.floats(-6, 6), st.integers(0, 2**32 - 1))
def test_no_delta_is_longer_than_the_clip_in_integers(clip: float, log_length: float, seed: int) -> None:
    grid = grid_for(clip)
    assert grid.radius * grid.unit <= clip
    direction = np.random.default_rng(seed).standard_t(2, N)
    delta = (direction / np.linalg.norm(direction) * clip * 10**log_length).astype(np.float32)
    points, is_within = clip_to_grid(delta, clip=clip, grid=grid)
    assert sum(int(one) ** 2 for one in points) <= grid.radius**2
    assert is_within == (math.sqrt(float((delta.astype(np.float64) ** 2).sum())) <= clip)
    if is_within:
        assert np.abs(points * grid.unit - delta).max() <= grid.unit


def test_a_delta_of_zero_stays_zero_and_is_within() -> None:
    points, is_within = clip_to_grid(np.zeros(N, np.float32), clip=1.0, grid=grid_for(1.0))
    assert is_within
    assert not points.any()


@pytest.mark.parametrize("clip", [0.0, -1.0, math.inf, math.nan])
def test_a_clip_that_is_none_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        grid_for(clip)


@given(st.integers(0, 2**32 - 1), st.floats(-3, 30))
def test_one_device_moves_the_fold_by_the_clip_over_the_cohort_at_most(seed: int, log_length: float) -> None:
    """METHODS' proof by trying: anything a device sends, the noise being the same."""
    rng = np.random.default_rng(seed)
    others = [(rng.normal(0, 1, N).astype(np.float32), 1) for _ in range(3)]
    hostile = (rng.normal(0, 1, N) * 10**log_length).astype(np.float32)
    terms = CentralTerms(clip=0.7, noise_multiplier=0.1, cohort=4)
    without = private_mean(others, terms, n_params=N, seed=SEED).mean
    with_it = private_mean([*others, (hostile, 10**9)], terms, n_params=N, seed=SEED).mean
    moved = math.sqrt(float(((with_it.astype(np.float64) - without) ** 2).sum()))
    assert moved <= 0.7 / 4 * (1 + 1e-5)


def test_the_noise_has_the_multiplier_times_the_clip_over_the_cohort() -> None:
    terms = CentralTerms(clip=3.0, noise_multiplier=2.0, cohort=5)
    mean = private_mean([], terms, n_params=200_000, seed=SEED).mean
    assert np.std(mean) == pytest.approx(2.0 * 3.0 / 5, rel=0.01)


def test_deltas_and_count_together_cost_the_noise_multiplier() -> None:
    z = delta_noise_multiplier(1.0, 2.0)
    assert z**-2 + (2 * 2.0) ** -2 == pytest.approx(1.0)
    adaptive = AdaptiveTerms(quantile=0.5, rate=0.2, count_noise=2.0, initial_clip=3.0)
    terms = CentralTerms(clip=3.0, noise_multiplier=1.0, cohort=5, adaptive=adaptive)
    mean = private_mean([], terms, n_params=200_000, seed=SEED).mean
    assert np.std(mean) == pytest.approx(z * 3.0 / 5, rel=0.01)
    with pytest.raises(ValueError, match="count noise"):
        delta_noise_multiplier(1.0, 0.5)


@pytest.mark.parametrize("first", [0.05, 20.0])
def test_the_clip_finds_the_median_of_the_norms(first: float) -> None:
    """The sign that well-known code has wrong: theirs drives this clip to nothing."""
    clip, rng = first, np.random.default_rng(0)
    adaptive = AdaptiveTerms(quantile=0.5, rate=0.2, count_noise=1.0, initial_clip=first)
    for round_ in range(120):
        norms = rng.lognormal(0, 0.5, 40)  # of median 1
        deltas = [(np.array([one] + [0] * 4, np.float32), 1) for one in norms]
        terms = CentralTerms(clip=clip, noise_multiplier=1.0, cohort=40, adaptive=adaptive)
        clip = private_mean(deltas, terms, n_params=5, seed=round_.to_bytes(32, "big")).next_clip
    assert 0.8 < clip < 1.25


def test_a_noisy_fraction_beyond_its_range_moves_the_clip_by_the_rate_at_most() -> None:
    facts = {"quantile": 0.5, "rate": 0.2, "initial": 1.0}
    assert next_clip(1.0, 40.0, **facts) == pytest.approx(math.exp(-0.1))
    assert next_clip(1.0, -40.0, **facts) == pytest.approx(math.exp(0.1))


def test_coins_fall_as_often_as_their_rate_and_stay_as_they_fell() -> None:
    coins = PoissonSampling.of_key(SEED, task="t", rate=0.3)
    fell = [coins.takes(round_=r, device=f"d{i}") for r in range(1, 11) for i in range(1000)]
    assert abs(sum(fell) / 10_000 - 0.3) < 5 * math.sqrt(0.21 / 10_000)
    assert fell == [coins.takes(round_=r, device=f"d{i}") for r in range(1, 11) for i in range(1000)]
    other = PoissonSampling.of_key(bytes(32), task="t", rate=0.3)
    assert fell[:1000] != [other.takes(round_=1, device=f"d{i}") for i in range(1000)]
    assert all(PoissonSampling.of_key(SEED, task="t", rate=1.0).takes(round_=1, device=f"d{i}") for i in range(100))
    assert SEED.hex() not in repr(coins)
