"""The clip follows a quantile of the devices' norms, itself found privately.

Source:
    Andrew, Thakkar, McMahan, Ramaswamy: Differentially Private Learning with Adaptive Clipping, NeurIPS 2021,
    arXiv:1905.03871, Algorithm 1: ``b_i = 1[norm_i <= C]``, ``b = (sum b_i + N(0, sigma_b^2)) / m``,
    ``C <- C exp(-rate (b - quantile))``, and Theorem 1 for the noise of the two together.
    Departures: the noisy fraction is cut to [0, 1] (free: it is noisy already), so that no draw moves the clip by more
    than ``exp(rate)``; the clip stays within a factor of ``_SPAN`` of the first.
Laws: the sign is the paper's: too many devices within the clip make it *smaller* (some well-known code has it the other
way round and drives the clip to nothing); a norm of zero is within any clip and never divided by; the noise of a round
is scaled by the clip that this round clipped with, the new clip is the next round's.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["delta_noise_multiplier", "next_clip"]

_SPAN: Final = 1e4


def delta_noise_multiplier(noise_multiplier: float, count_noise: float) -> float:
    """Return the deltas' noise multiplier such that deltas and count together cost ``noise_multiplier``.

    ``z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2)``: the count of ``b_i - 1/2`` moves by 1/2 with a device.

    Raises:
        ValueError: ``noise_multiplier`` is not below ``2 * count_noise``: the count alone would cost more.
    """
    if not 0 < noise_multiplier < 2 * count_noise:
        raise ValueError(
            f"a noise multiplier of {noise_multiplier:g} needs a count noise above {noise_multiplier / 2:g}, "
            f"got {count_noise:g}"
        )
    return 1 / math.sqrt(noise_multiplier**-2 - (2 * count_noise) ** -2)


def next_clip(clip: float, fraction_within: float, *, quantile: float, rate: float, initial: float) -> float:
    """Return the next round's clip from the noisy fraction of devices whose norm was within ``clip``."""
    fraction = min(1.0, max(0.0, fraction_within))
    moved = clip * math.exp(-rate * (fraction - quantile))
    return min(initial * _SPAN, max(initial / _SPAN, moved))
