from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from protocol.secure_sum import quantise
from protocol.secure_sum.quantise import Quantiser
from tests.protocol.secure_sum.parties import seed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FLOAT64_SLACK = 1e-9  # a few roundings of float64 beside a step of 1e-5


def quantiser(**changes: float) -> Quantiser:
    facts = {"n_params": 6, "clip": 1.0, "weight_cap": 50, "input_bits": 12, "max_cohort": 20}
    return Quantiser(**(facts | changes))  # type: ignore[arg-type]


@given(
    n=st.integers(1, 20),
    clip=st.sampled_from([1e-3, 1.0, 7.5]),
    input_bits=st.sampled_from([2, 8, 16]),
    is_stochastic=st.booleans(),
    salt=st.integers(0, 2**32),
)
def test_the_mean_is_within_the_stated_bound_of_the_float64_mean(
    *, n: int, clip: float, input_bits: int, is_stochastic: bool, salt: int
) -> None:
    one = quantiser(clip=clip, input_bits=input_bits)
    rng = np.random.default_rng(salt)
    vectors = (rng.uniform(-1, 1, (n, 6)) * clip).astype(np.float32)
    vectors[rng.random((n, 6)) < 0.2] = np.float32(clip) * np.float32(1 - 2**-20)  # the edge, often
    weights = rng.integers(1, 51, n)
    total = np.zeros(7, np.uint32)
    for i in range(n):
        total += one.encode(vectors[i], int(weights[i]), seed=seed(salt, i) if is_stochastic else None)
    mean = one.decode(total & one.mask)
    assert mean.weight == weights.sum()
    exact = (vectors.astype(np.float64) * weights[:, None]).sum(0) / weights.sum()
    bound = one.error_bound(n=n, weight=mean.weight, is_stochastic=is_stochastic)
    assert np.abs(mean.mean - exact).max() <= bound * (1 + FLOAT64_SLACK)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_possible_sum_does_not_wrap(sign: int) -> None:
    one = quantiser(max_cohort=1000, weight_cap=4096, input_bits=16)
    vector = np.full(6, sign * one.clip, np.float32)
    total = np.zeros(7, np.uint32)
    for _ in range(1000):
        total += one.encode(vector, 4096)
    mean = one.decode(total & one.mask)
    np.testing.assert_allclose(mean.mean, sign * one.clip, rtol=1e-12)
    assert mean.weight == 1000 * 4096


def test_the_modulus_is_the_smallest_that_holds_the_cohort() -> None:
    assert quantiser(max_cohort=100, input_bits=16).bits == 23
    assert quantiser(max_cohort=1024, input_bits=16, weight_cap=1).bits == 26
    with pytest.raises(ConfigError, match="at most 32"):
        quantiser(max_cohort=1000, input_bits=24)
    with pytest.raises(ConfigError, match="at most 32"):
        quantiser(max_cohort=1000, weight_cap=10**7)


def test_stochastic_rounding_is_unbiased() -> None:
    one = quantiser(n_params=20_000, weight_cap=1, input_bits=4)
    value = 0.3 * one.step
    encoded = one.encode(np.full(20_000, value, np.float32), 1, seed=seed("unbiased"))
    # A fraction of 0.3 goes up; five standard deviations of 20,000 draws are 0.0162.
    assert abs(encoded[:-1].mean() - 0.3) < 0.0162


@pytest.mark.parametrize(
    ("vector", "weight"),
    [
        (np.full(6, 1.5, np.float32), 1),
        (np.full(6, np.nan, np.float32), 1),
        (np.zeros(5, np.float32), 1),
        (np.zeros(6, np.float64), 1),
        (np.zeros(6, np.float32), 0),
        (np.zeros(6, np.float32), 51),
    ],
)
def test_what_breaks_its_bound_is_refused_and_never_clipped(vector: np.ndarray, weight: int) -> None:
    with pytest.raises(LocalProtocolError):
        quantiser().encode(vector, weight)


def test_a_sum_that_no_cohort_can_make_is_refused() -> None:
    one = quantiser()
    with pytest.raises(RemoteProtocolError, match="weight of 0"):
        one.decode(np.zeros(7, np.uint32))
    with pytest.raises(RemoteProtocolError, match="beyond what the cohort"):
        one.decode(np.array([2 ** (one.bits - 1), 0, 0, 0, 0, 0, 5], np.uint32))


@given(st.integers(1, 32), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
def test_packing_is_exact_and_as_short_as_can_be(bits: int, numbers: list[int]) -> None:
    values = np.array([number % 2**bits for number in numbers], np.uint32)
    data = quantise.pack(values, bits)
    # The slow way: one long integer, least significant value first.
    whole = sum(int(value) << (bits * i) for i, value in enumerate(values))
    assert data == whole.to_bytes(quantise.packed_bytes(values.size, bits), "little")
    np.testing.assert_array_equal(quantise.unpack(data, n_values=values.size, bits=bits), values)


def test_a_packed_vector_of_another_length_or_with_spare_bits_is_refused() -> None:
    data = quantise.pack(np.arange(3, dtype=np.uint32), 7)
    for wrong, reason in (
        (data + b"\0", "wrong-shape"),
        (data[:-1], "wrong-shape"),
        (data[:-1] + b"\xff", "bad-encoding"),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            quantise.unpack(wrong, n_values=3, bits=7)
        assert caught.value.reason == reason


def test_noise_reaches_the_levels_and_not_the_weight_and_its_room_holds_the_sum() -> None:
    one = quantiser(noise_levels=1000, max_cohort=2)
    vectors = [np.full(6, sign * one.clip, np.float32) for sign in (1, 1)]
    total = np.zeros(7, np.uint32)
    for vector in vectors:
        total += one.with_noise(one.encode(vector, 50), lambda levels: levels + 500)
    total &= one.mask
    mean = one.decode(total)
    assert mean.weight == 100
    levels = 2 * one.n_levels + 1000  # the largest sum that there is room for: it does not wrap
    np.testing.assert_allclose(mean.mean, levels * one.step * one.weight_cap / 100, rtol=1e-12)
    negative = one.with_noise(one.encode(np.zeros(6, np.float32), 1), lambda levels: levels - 1000)
    np.testing.assert_allclose(one.decode(negative).mean, -1000 * one.step * one.weight_cap, rtol=1e-12)


def test_room_for_noise_costs_bits_or_levels_and_never_wraps() -> None:
    plain, noisy = quantiser(), quantiser(noise_levels=10**6)
    assert noisy.bits > plain.bits
    assert noisy.n_levels * noisy.max_cohort + noisy.noise_levels <= 2 ** (noisy.bits - 1) - 1


@pytest.mark.parametrize(
    "made",
    [lambda levels: levels.astype(np.float64), lambda levels: levels[:-1], lambda levels: levels.astype(np.int32)],
)
def test_noise_that_is_no_levels_is_refused(made: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> None:
    one = quantiser(noise_levels=10)
    with pytest.raises(LocalProtocolError, match="noise made of"):
        one.with_noise(one.encode(np.zeros(6, np.float32), 1), made)
