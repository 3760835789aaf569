"""Renyi differential privacy of the subsampled Gaussian: what T noisy steps on Poisson samples cost, in epsilon.

Laws: always an upper bound, since a fixed list of orders is tried and every one of them is valid, rounding included;
neighbours are data sets that differ by one example added or taken away; no numpy, no scipy: a small device can count
for itself.
Time: at most 300 terms for each of 159 orders, 0.1 s on a server's core.

Source:
    Mironov, Talwar, Zhang 2019, Renyi Differential Privacy of the Sampled Gaussian Mechanism, arXiv:1908.10530,
    section 3.3: integer orders by the binomial sum, fractional ones by the two series of half-lines. Departures: the
    two are written as one series of scaled complementary error functions, in which everything that could overflow or
    cancel is gone; its sum ends on a term that is too much instead of at a tolerance (see ``_fractional``).
    For the discrete Gaussian and an integer shift the moments of integer orders are the same numbers (the sum over
    shifted integers is the sum over integers) and so is the symmetry that Theorem 5 needs. Those of fractional orders
    are the same up to a factor of 1 + exp(-1000) on a grid of 2^20 points in a clip: the integrand is analytic within
    pi sigma^2 of the real line, so that by Poisson's sum a lattice errs by exp(-2 pi 2^20 a / 4) for each a below that.
    Conversion: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, Proposition 12.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ORDERS", "epsilon_from", "epsilon_of", "rdp_of_step", "rdp_of_steps"]

# With little noise the divergence leaps up at some order below 11, and the best one is just before that.
_FRACTIONS: Final = tuple(tenth / 10 for tenth in range(11, 110) if tenth % 10)
ORDERS: Final[tuple[float, ...]] = (*sorted((*_FRACTIONS, *range(2, 65))), 80, 96, 128, 192, 256, 512)
_MAX_TERMS: Final = 300
_NEGLIGIBLE: Final = -37.0  # exp(-37) is below the rounding of a double
_ROUNDING: Final = 1e-13  # added to a step's log moment: some hundred terms, each rounded to 1e-16 of the largest
_ASYMPTOTIC_FROM: Final = 20.0  # where erfc is still a normal double and five terms are exact to its rounding


def rdp_of_step(order: float, *, sampling_rate: float, noise_multiplier: float) -> float:
    """Return the Renyi divergence of ``order`` that one step may cost.

    Args:
        order: above 1.
        sampling_rate: with which each example is taken, by its own coin; of (0, 1].
        noise_multiplier: the noise's standard deviation over the clip; above 0.

    Raises:
        ValueError: an argument is out of its range (the caller's fault).
    """
    if not order > 1 or not 0 < sampling_rate <= 1 or not noise_multiplier > 0:
        raise ValueError(f"order {order}, sampling rate {sampling_rate}, noise multiplier {noise_multiplier}")
    if sampling_rate == 1:
        return order / (2 * noise_multiplier**2)
    log_moment = _integer if order == int(order) else _fractional
    found = max(0.0, log_moment(order, sampling_rate, noise_multiplier))
    return (found * (1 + _ROUNDING) + _ROUNDING) / (order - 1)


def _integer(order: float, q: float, sigma: float) -> float:
    """Return log A_alpha = log sum_k C(alpha, k) (1 - q)^(alpha - k) q^k exp((k^2 - k) / (2 sigma^2))."""
    alpha, log_q, log_rest = int(order), math.log(q), math.log1p(-q)
    terms = [
        math.lgamma(alpha + 1) - math.lgamma(k + 1) - math.lgamma(alpha - k + 1)
        + (alpha - k) * log_rest + k * log_q + (k * k - k) / (2 * sigma**2)
        for k in range(alpha + 1)
    ]  # fmt: skip
    largest = max(terms)
    return largest + math.log(math.fsum(math.exp(term - largest) for term in terms))


def _fractional(alpha: float, q: float, sigma: float) -> float:
    """Return an upper bound of log A_alpha, and next to nothing above it.

    With z0 = sigma^2 log(1 / q - 1) + 1/2 and erfcx(x) = exp(x^2) erfc(x) the two series of section 3.3 are together

        A_alpha = (1 - q)^alpha exp(-z0^2 / (2 sigma^2)) / 2
                  * sum_k C(alpha, k) (erfcx((k - z0) / s) + erfcx((k + z0 - alpha) / s)),    s = sqrt(2) sigma

    From k = ceil(alpha) on the signs of C(alpha, k) alternate and all factors fall, so a sum that ends on a positive
    term is too large, by less than the next one.
    """
    z0, s = sigma**2 * (math.log1p(-q) - math.log(q)) + 0.5, math.sqrt(2) * sigma
    first_alternating = math.ceil(alpha)
    terms: list[tuple[float, float]] = []  # sign, log
    log_choose, sign, largest = 0.0, 1.0, -math.inf
    for k in range(_MAX_TERMS):
        log_term = log_choose + _log_sum(
            _log_half(k, (k - z0) / s, z0, s), _log_half(alpha - k, (k + z0 - alpha) / s, z0, s)
        )
        terms.append((sign, log_term))
        largest = max(largest, log_term)
        if k >= first_alternating and sign > 0 and log_term < largest + _NEGLIGIBLE:
            break
        sign = sign if alpha > k else -sign
        log_choose += math.log(abs(alpha - k) / (k + 1))
    if terms[-1][0] < 0:
        terms.pop()
    total = math.fsum(sign * math.exp(log_term - largest) for sign, log_term in terms)
    return alpha * math.log1p(-q) - math.log(2) + largest + math.log(total)


def _log_half(power: float, x: float, z0: float, s: float) -> float:
    """Return log(erfcx(x)) - z0^2 / s^2 where x is (power - z0) / s or its negative."""
    if x < _ASYMPTOTIC_FROM:
        return power * (power - 2 * z0) / s**2 + math.log(math.erfc(x))
    t = 1 / (2 * x * x)
    return math.log1p(-t * (1 - 3 * t * (1 - 5 * t * (1 - 7 * t)))) - math.log(x * math.sqrt(math.pi)) - (z0 / s) ** 2


def _log_sum(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def rdp_of_steps(*, sampling_rate: float, noise_multiplier: float, n_steps: int) -> dict[float, float]:
    """Return the Renyi divergence after ``n_steps`` steps by order, for ``ORDERS``; what several runs cost adds up.

    Raises:
        ValueError: an argument is out of its range (the caller's fault).
    """
    if n_steps < 0:
        raise ValueError(f"{n_steps} steps")
    facts = {"sampling_rate": sampling_rate, "noise_multiplier": noise_multiplier}
    return {order: n_steps * rdp_of_step(order, **facts) for order in ORDERS}


def epsilon_from(rdp: Mapping[float, float], *, delta: float) -> float:
    """Return an epsilon such that what has these divergences, by order, is (epsilon, delta)-differentially private.

    Nothing spent is 0; so is an empty ``rdp``.

    Raises:
        ValueError: an argument is out of its range (the caller's fault).
    """
    if not 0 < delta < 1 or any(order <= 1 for order in rdp):
        raise ValueError(f"delta {delta}, orders {list(rdp)}")
    if not any(rdp.values()):
        return 0.0
    found = (one + math.log1p(-1 / order) - math.log(delta * order) / (order - 1) for order, one in rdp.items())
    return max(0.0, min(found))


def epsilon_of(*, sampling_rate: float, noise_multiplier: float, n_steps: int, delta: float) -> float:
    """Return an epsilon such that ``n_steps`` steps together are (epsilon, delta)-differentially private.

    Raises:
        ValueError: an argument is out of its range (the caller's fault).
    """
    rdp = rdp_of_steps(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier, n_steps=n_steps)
    return epsilon_from(rdp, delta=delta)
