"""dp-accounting against two accountants of our own that share nothing with it, within 2 %.

Without sampling: the closed form of Balle and Wang 2018 (arXiv:1805.06530, Theorem 8), composition included, since the
composition of Gaussians is a Gaussian. With sampling: the privacy loss of the subsampled Gaussian, integrated on a grid
from its distribution function and composed by the fast Fourier transform, in both directions.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import log_ndtr, ndtr

from aggregator.core.privacy.accounting import epsilon_of, noise_for
from aggregator.core.privacy.ledger import Step

AGREE = 0.02


def analytic_delta(sigma: float, epsilon: float) -> float:
    """Theorem 8: Phi(1/2s - es) - e^e Phi(-1/2s - es)."""
    return float(ndtr(0.5 / sigma - epsilon * sigma) - math.exp(epsilon + log_ndtr(-0.5 / sigma - epsilon * sigma)))


def analytic_epsilon(sigma: float, delta: float) -> float:
    low, high = 0.0, 500.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if analytic_delta(sigma, middle) > delta else (low, middle)
    return high


def sampled_epsilon(sigma: float, q: float, n: int, delta: float) -> float:
    return max(_composed(sigma, q, n, delta, is_removal=one) for one in (True, False))


def _composed(sigma: float, q: float, n: int, delta: float, *, is_removal: bool) -> float:
    """Privacy loss of one of the two directions on a grid of 2^20 cells of 1e-4, composed n times."""
    width, cells = 1e-4, 1 << 20
    edges = (np.arange(cells + 1) - cells // 2) * width

    def x_of(loss: np.ndarray) -> np.ndarray:
        """Where log(mixture / Gaussian) is ``loss``: it grows with x."""
        inner = np.exp(loss) - (1 - q)
        return np.where(inner > 0, sigma**2 * np.log(np.maximum(inner, 1e-300) / q) + 0.5, -np.inf)

    if is_removal:  # the outcome is the mixture's
        below = (1 - q) * ndtr(x_of(edges) / sigma) + q * ndtr((x_of(edges) - 1) / sigma)
    else:  # the outcome is the Gaussian's, and the loss log(Gaussian / mixture)
        below = 1 - ndtr(x_of(-edges) / sigma)
    mass = np.diff(below)
    loss = (np.arange(cells) - cells // 2 + 0.5) * width
    composed = np.fft.irfft(np.fft.rfft(np.roll(mass, -(cells // 2))) ** n, cells)
    total = np.roll(composed, cells // 2)  # of cells whose centres add up: n half cells to the right
    loss = loss + (n - 1) * 0.5 * width
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        found = float((np.maximum(total, 0) * -np.expm1(np.minimum(middle - loss, 0))).sum())
        low, high = (middle, high) if found > delta else (low, middle)
    return high


@pytest.mark.parametrize(("sigma", "n", "delta"), [(1.0, 1, 1e-5), (1.47, 6, 1e-5), (5.0, 40, 1e-6), (0.6, 2, 1e-3)])
def test_the_closed_form_agrees_without_sampling(sigma: float, n: int, delta: float) -> None:
    ours = analytic_epsilon(sigma / math.sqrt(n), delta)
    theirs = epsilon_of([Step(noise_multiplier=sigma, sampling_rate=1.0, count=n)], delta=delta)
    assert theirs == pytest.approx(ours, rel=AGREE)


@pytest.mark.parametrize(
    ("sigma", "q", "n", "delta"),
    [
        (1.0, 0.01, 100, 1e-5),
        (0.8, 0.05, 50, 1e-5),
        (1.0, 0.05, 1000, 1e-6),
        (0.66, 0.05, 100, 4e-5),
        (2.0, 0.5, 30, 1e-4),
    ],
)
def test_the_numerical_integral_agrees_with_sampling(sigma: float, q: float, n: int, delta: float) -> None:
    theirs = epsilon_of([Step(noise_multiplier=sigma, sampling_rate=q, count=n)], delta=delta)
    assert theirs == pytest.approx(sampled_epsilon(sigma, q, n, delta), rel=AGREE)


def test_the_two_of_our_own_agree_where_both_apply() -> None:
    assert sampled_epsilon(2.0, 1.0, 9, 1e-5) == pytest.approx(analytic_epsilon(2.0 / 3, 1e-5), rel=1e-3)


def test_steps_of_different_noise_add_up_as_gaussians_do() -> None:
    steps = [Step(noise_multiplier=z, sampling_rate=1.0) for z in (1.0, 2.0, 4.0)]
    sigma = (1 + 1 / 4 + 1 / 16) ** -0.5
    assert epsilon_of(steps, delta=1e-5) == pytest.approx(analytic_epsilon(sigma, 1e-5), rel=AGREE)
    assert epsilon_of([], delta=1e-5) == 0


@pytest.mark.parametrize(("n", "q", "epsilon"), [(6, 1.0, 8.0), (100, 0.02, 4.0)])
def test_noise_that_is_solved_for_is_accounted_to_the_same_epsilon(n: int, q: float, epsilon: float) -> None:
    z = noise_for((), n_rounds=n, sampling_rate=q, epsilon=epsilon, delta=1e-5)
    assert z is not None
    found = epsilon_of([Step(noise_multiplier=z, sampling_rate=q, count=n)], delta=1e-5)
    assert 0.98 * epsilon < found <= epsilon


def test_a_budget_that_is_spent_has_no_noise() -> None:
    spent = [Step(noise_multiplier=1.0, sampling_rate=1.0, count=4)]
    assert noise_for(spent, n_rounds=1, sampling_rate=1.0, epsilon=5.0, delta=1e-5) is None


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 4.0])
def test_the_discrete_gaussian_costs_what_the_continuous_one_costs(epsilon: float) -> None:
    """Theorem 7 of arXiv:2004.00010: P[Y > es^2/D - D/2] - e^e P[Y > es^2/D + D/2], at a grid of 2^10 steps, in sums.

    The folds' grid is a thousand times finer.
    """
    steps, z = 1 << 10, 1.0
    sigma = z * steps
    y = np.arange(-12 * steps, 12 * steps + 1)
    log_p = -(y.astype(float) ** 2) / (2 * sigma**2)
    p = np.exp(log_p) / np.exp(log_p).sum()
    middle = Fraction(epsilon) * Fraction(sigma) ** 2 / steps
    above = float(p[y > float(middle - Fraction(steps, 2))].sum())
    below = float(p[y > float(middle + Fraction(steps, 2))].sum())
    assert above - math.exp(epsilon) * below == pytest.approx(analytic_delta(z, epsilon), rel=0.02)
