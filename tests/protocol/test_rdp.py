"""The accountant against a closed form, the integral that it stands for, and dp-accounting's figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from protocol.rdp import epsilon_of, rdp_of_step

# dp-accounting 0.6.0: RdpAccountant(its default orders, fractional ones among them), PoissonSampledDpEvent(q,
# GaussianDpEvent(z)) composed n times, get_epsilon(delta). The second number is how far above it we may be.
DP_ACCOUNTING = {
    (0.01, 1.0, 1000, 1e-5): (2.101367, 1.02),
    (0.05, 1.2, 120, 1e-5): (3.010386, 1.02),
    (0.032, 0.7, 160, 1e-5): (7.540146, 1.02),
    (0.2, 3.0, 50, 1e-6): (2.556573, 1.02),
    (1.0, 5.0, 20, 1e-5): (4.161624, 1.02),
    # Little noise and long runs: the best order is a fraction between 2 and 4, which we do not try.
    (0.008, 0.8, 625, 1e-5): (2.681528, 1.04),
    (0.004, 0.6, 2000, 1e-5): (5.409354, 1.08),
}


def test_without_sampling_a_step_costs_the_gaussians_divergence() -> None:
    assert rdp_of_step(7, sampling_rate=1.0, noise_multiplier=2.0) == 7 / (2 * 4)


@pytest.mark.parametrize(("order", "q", "sigma"), [(2, 0.01, 1.0), (5, 0.1, 0.8), (16, 0.02, 1.5), (32, 0.3, 4.0)])
def test_a_step_costs_the_integral_of_the_paper(order: int, q: float, sigma: float) -> None:
    x = np.linspace(-60 * sigma, 60 * sigma + order, 2_000_001)
    log_p = -x * x / (2 * sigma**2)
    log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * x - 1) / (2 * sigma**2))
    terms = log_p + order * log_ratio - 0.5 * math.log(2 * math.pi * sigma**2)
    largest = terms.max()
    integral = largest + math.log(np.exp(terms - largest).sum() * (x[1] - x[0]))
    assert rdp_of_step(order, sampling_rate=q, noise_multiplier=sigma) == pytest.approx(
        integral / (order - 1), rel=1e-6
    )


@pytest.mark.parametrize(("setting", "expected"), DP_ACCOUNTING.items())
def test_epsilon_is_that_of_dp_accounting_or_little_above_and_never_below(
    setting: tuple[float, float, int, float], expected: tuple[float, float]
) -> None:
    q, sigma, n_steps, delta = setting
    theirs, within = expected
    ours = epsilon_of(sampling_rate=q, noise_multiplier=sigma, n_steps=n_steps, delta=delta)
    assert theirs * (1 - 1e-6) <= ours <= theirs * within


def test_no_step_costs_nothing_and_more_steps_cost_more() -> None:
    costs = [epsilon_of(sampling_rate=0.05, noise_multiplier=1.0, n_steps=n, delta=1e-5) for n in (0, 1, 10, 100)]
    assert costs[0] == 0
    assert costs == sorted(set(costs))


@pytest.mark.parametrize("wrong", [{"sampling_rate": 0.0}, {"sampling_rate": 1.1}, {"noise_multiplier": 0.0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="order"):
        rdp_of_step(2, **{"sampling_rate": 0.5, "noise_multiplier": 1.0, **wrong})
