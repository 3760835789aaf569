"""Renyi differential privacy of the subsampled Gaussian: what T noisy steps on Poisson samples cost, in epsilon.

Laws: always an upper bound, since a fixed list of orders is tried and every one of them is valid; neighbours are
data sets that differ by one example added or taken away; no numpy, no scipy: a small device can count for itself.

Source:
    Mironov, Talwar, Zhang 2019, Renyi Differential Privacy of the Sampled Gaussian Mechanism, arXiv:1908.10530,
    section 3.3, integer orders. For the discrete Gaussian and an integer shift the moments of section 3.3 are the same
    numbers (the sum over shifted integers is the sum over integers) and so is the symmetry that Theorem 5 needs.
    Fractional orders are left out: they would gain up to 8 % where the noise multiplier is below 0.8, little above.
    Conversion: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, Proposition 12.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["ORDERS", "epsilon_of", "rdp_of_step"]

ORDERS: Final[tuple[int, ...]] = (*range(2, 65), 80, 96, 128, 192, 256, 512)


def rdp_of_step(order: int, *, sampling_rate: float, noise_multiplier: float) -> float:
    """Return the Renyi divergence of ``order`` that one step may cost.

    Args:
        order: an integer of 2 or more.
        sampling_rate: with which each example is taken, by its own coin; of (0, 1].
        noise_multiplier: the noise's standard deviation over the clip; above 0.

    Raises:
        ValueError: an argument is out of its range (the caller's fault).
    """
    if order < 2 or not 0 < sampling_rate <= 1 or not noise_multiplier > 0:
        raise ValueError(f"order {order}, sampling rate {sampling_rate}, noise multiplier {noise_multiplier}")
    half = 1 / (2 * noise_multiplier**2)
    if sampling_rate == 1:
        return order * half
    log_q, log_rest = math.log(sampling_rate), math.log1p(-sampling_rate)
    # log of each term of A_alpha = sum_k C(alpha, k) (1 - q)^(alpha - k) q^k exp((k^2 - k) / (2 sigma^2))
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + (order - k) * log_rest + k * log_q + (k * k - k) * half
        for k in range(order + 1)
    ]  # fmt: skip
    largest = max(terms)
    return (largest + math.log(math.fsum(math.exp(term - largest) for term in terms))) / (order - 1)


def epsilon_of(*, sampling_rate: float, noise_multiplier: float, n_steps: int, delta: float) -> float:
    """Return an epsilon such that ``n_steps`` steps together are (epsilon, delta)-differentially private.

    Raises:
        ValueError: an argument is out of its range (the caller's fault).
    """
    if not 0 < delta < 1 or n_steps < 0:
        raise ValueError(f"delta {delta}, {n_steps} steps")
    if n_steps == 0:
        return 0.0
    found: list[float] = []
    for order in ORDERS:
        rdp = n_steps * rdp_of_step(order, sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
        found.append(rdp + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
    return max(0.0, min(found))
