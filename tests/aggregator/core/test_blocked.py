"""Sums in pieces: bit for bit what whole vectors give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aggregator.core.blocked import add_weighted, squared_norm


@pytest.mark.parametrize("size", [1, 16_383, 16_384, 16_385, 75_268])
@pytest.mark.parametrize("weight", [1, 337, 0.125, 1 / 3])
def test_a_weighted_sum_is_bit_for_bit_that_of_whole_vectors(size: int, weight: float) -> None:
    rng = np.random.default_rng(size)
    delta, before = rng.normal(0, 1e-3, size).astype(np.float32), rng.normal(0, 1, size)
    expected = before + np.multiply(delta, weight, dtype=np.float64)
    expected += np.multiply(delta, 3, dtype=np.float64)
    add_weighted(before, [(delta, weight), (delta, 3)])
    assert before.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [1, 16_385, 75_268])
def test_a_squared_norm_is_the_exact_one(size: int) -> None:
    delta = np.random.default_rng(size).normal(0, 1e-3, size).astype(np.float32)
    exact = math.fsum(float(one) ** 2 for one in delta)
    assert squared_norm(delta) == pytest.approx(exact, rel=1e-13)
