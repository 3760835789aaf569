"""The noise is the discrete Gaussian: exactly distributed, the same on every machine, secret bits only."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from protocol import discrete_gaussian as dg
from protocol.discrete_gaussian import SecretStream, discrete_gaussian

SEED = bytes(range(32))


@pytest.mark.parametrize("sigma", [1, 2, 7])
def test_every_value_is_as_frequent_as_its_probability(sigma: int) -> None:
    """Pearson's chi-square against the probabilities of the definition; 6 sigma of its normal approximation."""
    n = 400_000
    samples = discrete_gaussian(sigma, n, SecretStream(SEED))
    values = np.arange(-20 * sigma, 20 * sigma + 1)
    p = np.exp(-(values.astype(float) ** 2) / (2 * sigma**2))
    expected = n * p / p.sum()
    observed = np.bincount(samples + 20 * sigma, minlength=len(values))
    often = expected > 10
    chi2 = float((((observed - expected) ** 2) / expected)[often].sum())
    degrees = int(often.sum()) - 1
    assert abs(chi2 - degrees) < 6 * math.sqrt(2 * degrees)


def test_a_wide_one_has_the_moments_of_a_gaussian() -> None:
    sigma, n = 3 << 20, 500_000
    x = discrete_gaussian(sigma, n, SecretStream(SEED)) / sigma
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs((x**2).mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / n)
    # The low bits are as random as the rest.
    low = np.bincount(discrete_gaussian(sigma, n, SecretStream(SEED)) & 7, minlength=8)
    assert float(((low - n / 8) ** 2 / (n / 8)).sum()) < 7 + 6 * math.sqrt(14)


def test_the_exact_path_decides_as_the_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a margin that leaves half of the coins to exact arithmetic, every sample is the same."""
    fast = discrete_gaussian(1 << 20, 400, SecretStream(SEED))
    monkeypatch.setattr(dg, "_MARGIN", 0.5)
    assert (discrete_gaussian(1 << 20, 400, SecretStream(SEED)) == fast).all()


def test_equal_bits_are_decided_by_more_of_them() -> None:
    stream = SecretStream(SEED)
    whole = math.floor(math.exp(-1) * 2**64)
    exact = 6786177901268885274  # floor(2^64 / e), from the decimal expansion of e
    assert abs(exact - whole) < 4096
    assert dg._exact_coin(exact - 1, 1, 1, stream)
    assert not dg._exact_coin(exact + 1, 1, 1, stream)
    fell = {dg._exact_coin(exact, 1, 1, stream) for _ in range(64)}
    assert fell == {True, False}


def test_one_seed_gives_the_same_noise_for_ever() -> None:
    """The digest changes only with the algorithm, and then no task that began before can be verified."""
    samples = discrete_gaussian(1_234_567, 10_000, SecretStream(SEED))
    digest = hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest()
    assert digest == "d18cb827ddf2293aae95c3fa3bfec9b0603dbb9590ba5b9c76fd3faa5032e370"


def test_no_bit_of_the_seed_shows_and_its_length_is_checked() -> None:
    assert SEED.hex() not in repr(SecretStream(SEED))
    with pytest.raises(ValueError, match="32 bytes"):
        SecretStream(b"short")
    with pytest.raises(ValueError, match="sigma"):
        discrete_gaussian(0, 1, SecretStream(SEED))
