"""What the terms of a sum with distributed noise claim, whatever cohort comes together; needs no numpy.

Laws: never more than ``distributed_noise.concentration`` gives for any roster that the terms allow, and any adapter: an
idle device, and a service that has no roster yet, may count with it. It leaves next to nothing away: with levels of
some bits, the second part of the bound vanishes.

Source: Theorem 1 of arXiv:2102.06387 as ``distributed_noise`` has it, with k / (k + 1) at its least, 1/2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from protocol.errors import ConfigError
from protocol.layout import MAX_PARAMS
from protocol.rdp import epsilon_of

if TYPE_CHECKING:
    from protocol.sum_round import SumTerms

__all__ = ["claimed_multiplier", "epsilon_at"]


def claimed_multiplier(terms: SumTerms) -> float:
    """Return the noise multiplier of a Gaussian that says no less of a device than one sum under ``terms``.

    Raises:
        ConfigError: the terms ask for no noise (the caller's fault).
    """
    if terms.noise_multiplier is None:
        raise ConfigError("these terms ask for no noise")
    least_radius = 2 ** (terms.input_bits - 1) - 1
    sigma = max(1.0, terms.noise_multiplier * least_radius / math.sqrt(terms.max_cohort))
    tau = 10 * (terms.max_cohort - 1) * math.exp(-((math.pi * sigma) ** 2))
    return 1 / (1 / terms.noise_multiplier + tau * math.sqrt(MAX_PARAMS))


def epsilon_at(precision: float, *, delta: float) -> float:
    """Return the epsilon of sums whose claimed multipliers' inverse squares add up to ``precision``; 0 for none."""
    if precision <= 0:
        return 0.0
    return epsilon_of(sampling_rate=1.0, noise_multiplier=precision**-0.5, n_steps=1, delta=delta)
