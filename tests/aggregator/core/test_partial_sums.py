"""The tree of a fold's sum: one order of additions, whoever adds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.means import mean_delta
from aggregator.core.partial_sums import CHUNK, chunk_sums, total_of


def deltas_of(seed: int, n: int, n_values: int = 7) -> list[tuple[np.ndarray, int]]:
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.integers(-12, 12, n)  # so that another order gives other bytes
    return [
        ((rng.normal(size=n_values) * scale).astype(np.float32), int(k))
        for scale, k in zip(scales, rng.integers(1, 1000, n), strict=True)
    ]


def plain(deltas: list[tuple[np.ndarray, int]]) -> np.ndarray:
    total = np.zeros(7, np.float64)
    for delta, n in deltas:
        total += delta.astype(np.float64) * n
    return total


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 3 * CHUNK + 1))
def test_the_sum_is_that_of_the_chunks_in_order_and_up_to_one_chunk_the_plain_sum(seed: int, n: int) -> None:
    deltas = deltas_of(seed, n)
    expected = np.zeros(7, np.float64)
    for first in range(0, n, CHUNK):
        expected += plain(deltas[first : first + CHUNK])
    found = total_of(chunk_sums(deltas, 7), 7)
    assert found.total.tobytes() == expected.tobytes()
    assert found.count == sum(k for _, k in deltas)
    if n <= CHUNK:
        assert found.total.tobytes() == plain(deltas).tobytes()
    mean = mean_delta(deltas, 7)
    assert (mean is None) == (n == 0)
    if mean is not None:
        assert mean.tobytes() == (expected / found.count).tobytes()


def test_beyond_one_chunk_the_plain_sum_has_other_bytes() -> None:
    differ = [
        plain(deltas_of(seed, 2 * CHUNK)).tobytes()
        != total_of(chunk_sums(deltas_of(seed, 2 * CHUNK), 7), 7).total.tobytes()
        for seed in range(20)
    ]
    assert any(differ)


def test_a_weight_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="n_examples is 0"):
        mean_delta([(np.ones(3, np.float32), 0)], 3)
