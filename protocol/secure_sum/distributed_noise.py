"""Distributed differential privacy: every device noises its own levels, so that nobody ever holds a sum without noise.

A device clips its levels to an L2 norm of ``radius`` *in integers*, after rounding, and adds a discrete Gaussian of
``sigma``. A sum has at least ``honest`` honest devices: what the graph lets through at least, less those that may be
corrupt and add no noise. So sigma is radius * noise_multiplier / sqrt(honest), rounded up, and a sum in which more
devices are left has more noise than was promised; that excess is the price of drop-outs, and nothing takes it away.

Source:
    Kairouz, Liu, Steinke 2021, The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
    Aggregation, arXiv:2102.06387, Theorem 1 in its simplest form: h shares of sigma each are (eps^2 / 2)-concentrated
    private with eps = radius / (sqrt(h) sigma) + tau sqrt(d), tau = 10 * sum_{k<h} exp(-2 pi^2 sigma^2 k / (k + 1)).
    Departures: no random rotation and no conditional rounding. Sums of up to 32 bits leave levels so fine that rounding
    to the nearest one and shrinking what grew beyond the radius costs about sqrt(d) / radius of the clip.
    Tail: a discrete Gaussian is sub-Gaussian with its own sigma (Canonne, Kamath, Steinke 2020, arXiv:2004.00010).
Laws: neighbours are cohorts that differ in one device's vector, which is zero in one of them (who takes part is known);
every device counts the same (``weight_cap`` is 1); noise follows from a secret of this sum, so that a step that is
taken again sends the same bytes; no amplification by sampling is claimed, since the server knows who takes part. An
honest device that looks at a result knows its own share of the noise: count it among the corrupt.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from protocol.discrete_gaussian import SecretStream, discrete_gaussian
from protocol.errors import ConfigError
from protocol.rdp import epsilon_of
from protocol.secure_sum.quantise import MAX_BITS
from protocol.secure_sum.roster import quantiser_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from protocol.secure_sum.graph import GraphSpec
    from protocol.secure_sum.messages import SumPlan

__all__ = [
    "WRAP_BITS",
    "check_noise",
    "clip_levels",
    "concentration",
    "divergence",
    "n_honest",
    "noised",
    "privacy_of",
    "share_sigma",
    "with_room",
]

WRAP_BITS: Final = 40  # a sum with noise wraps in any of its coordinates with a probability of at most 2**-40
_SHRINK: Final = 1 - 2.0**-30


def n_honest(spec: GraphSpec) -> int:
    """Return how many honest devices are in every sum that is unmasked.

    Raises:
        ConfigError: there may be none (the operator's fault).
    """
    honest = spec.min_survivors - spec.n_corrupt
    if honest < 1:
        raise ConfigError(f"of {spec.min_survivors} survivors {spec.n_corrupt} may be corrupt: nobody's noise is sure")
    return honest


def share_sigma(plan: SumPlan, spec: GraphSpec) -> int:
    """Return the standard deviation, in levels, of the noise that each device adds; rounded up.

    Raises:
        ConfigError: the plan asks for no noise, or none is sure (the operator's fault).
    """
    return math.ceil(_multiplier(plan) * quantiser_of(plan).n_levels / math.sqrt(n_honest(spec)))


def clip_levels(levels: NDArray[np.int64], radius: int) -> NDArray[np.int64]:
    """Return ``levels``, int64 [n_params], shrunk towards zero until their L2 norm is at most ``radius``, exactly."""
    clipped = levels
    while (square := _square_norm(clipped)) > radius**2:
        factor = min(_SHRINK, radius / math.sqrt(square))
        clipped = np.trunc(clipped * factor).astype(np.int64)
    return clipped


def noised(levels: NDArray[np.int64], seed: bytes, *, plan: SumPlan, spec: GraphSpec) -> NDArray[np.int64]:
    """Return clipped ``levels`` with this device's share of the noise; int64 [n_params].

    Args:
        levels: int64 [n_params], each at most the radius.
        seed: 32 secret bytes of this device in this sum.
        plan: with a ``noise_multiplier``.
        spec: the sum's graph, which says how many honest devices are left at least.
    """
    stream, radius = SecretStream(seed), quantiser_of(plan).n_levels
    noise = discrete_gaussian(share_sigma(plan, spec), levels.size, stream)
    result: NDArray[np.int64] = clip_levels(levels, radius) + noise
    return result


def concentration(plan: SumPlan, spec: GraphSpec) -> float:
    """Return eps of Theorem 1: a sum is (eps^2 / 2)-concentrated private, as with a Gaussian of multiplier 1 / eps."""
    return divergence(
        quantiser_of(plan).n_levels, sigma=share_sigma(plan, spec), honest=n_honest(spec), n_params=plan.n_params
    )


def divergence(radius: int, *, sigma: int, honest: int, n_params: int) -> float:
    """Return eps of Theorem 1 for so many shares of ``sigma``, a vector of norm ``radius`` and ``n_params`` values."""
    tau = 10 * math.fsum(math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, honest))
    return radius / (math.sqrt(honest) * sigma) + tau * math.sqrt(n_params)


def privacy_of(plan: SumPlan, spec: GraphSpec, *, n_sums: int, delta: float) -> float:
    """Return the epsilon of so many sums together, for a device that was in all of them."""
    multiplier = 1 / concentration(plan, spec)
    return epsilon_of(sampling_rate=1.0, noise_multiplier=multiplier, n_steps=n_sums, delta=delta)


def with_room(plan: SumPlan, noise_multiplier: float) -> SumPlan:
    """Return ``plan`` with noise, and with the fewest bits that hold it and levels as fine as ``plan.input_bits`` asks.

    Raises:
        ConfigError: not even 32 bits do, or some cohort leaves nobody's noise sure (the operator's fault).
    """
    finest = 2 ** (plan.input_bits - 1) - 1
    slope, offset = _room(plan, noise_multiplier)
    for bits in range(4, MAX_BITS + 1):
        most = 2 ** (bits - 1) - 1
        radius = math.floor((most - offset) / (plan.max_cohort + slope))
        if radius >= max(1, finest):
            shaped = dataclasses.replace(
                plan,
                weight_cap=1,
                input_bits=(radius + 1).bit_length(),
                noise_levels=most - plan.max_cohort * radius,
                noise_multiplier=noise_multiplier,
            )
            check_noise(shaped)
            return shaped
    raise ConfigError(
        f"{plan.input_bits} bits, {plan.max_cohort} devices and a noise multiplier of {noise_multiplier:g} need sums "
        f"of more than {MAX_BITS} bits: lower input_bits"
    )


def check_noise(plan: SumPlan) -> None:
    """Refuse a plan whose noise may wrap more often than ``WRAP_BITS`` says, or whose devices do not count the same.

    Raises:
        ConfigError: so it is (the operator's fault).
    """
    if plan.weight_cap != 1:
        raise ConfigError(
            f"with distributed noise every device counts the same: weight_cap is {plan.weight_cap}, not 1"
        )
    slope, offset = _room(plan, _multiplier(plan))
    needed = slope * quantiser_of(plan).n_levels + offset
    if needed > (plan.noise_levels or 0):
        raise ConfigError(f"the noise needs room for {needed:.0f} levels, the plan has {plan.noise_levels}")


def _room(plan: SumPlan, noise_multiplier: float) -> tuple[float, float]:
    """Return slope and offset of the levels of room, as a function of the radius, whatever cohort comes together.

    n shares of sigma pass t in one of d coordinates with probability 2 d exp(-t^2 / (2 n sigma^2)) at most.
    """
    tail = math.sqrt(2 * (math.log(2 * plan.n_params) + WRAP_BITS * math.log(2)))
    worst = 0.0
    for n in range(plan.min_cohort, plan.max_cohort + 1):
        # Of every graph: a complete one's threshold is a majority, a sparse one lets only so many drop out.
        survivors = min(n // 2 + 1, n - int(n * plan.dropout_fraction))
        honest = survivors - int(n * plan.corrupt_fraction)
        if honest < 1:
            raise ConfigError(f"{n} devices may leave {survivors} with {survivors - honest} corrupt: no noise is sure")
        worst = max(worst, n / honest)
    # Plus one level a device, by which sigma was rounded up, and one for the last digit of these doubles.
    return tail * noise_multiplier * math.sqrt(worst), tail * math.sqrt(plan.max_cohort) + 1


def _multiplier(plan: SumPlan) -> float:
    if plan.noise_multiplier is None:
        raise ConfigError("this sum's plan asks for no noise")
    return plan.noise_multiplier


def _square_norm(levels: NDArray[np.int64]) -> int:
    """Return the exact sum of squares: halves of 16 bits keep every partial sum below 2^63."""
    high, low = np.divmod(np.abs(levels), 1 << 16)
    return (int(high @ high) << 32) + (int(high @ low) << 17) + int(low @ low)
