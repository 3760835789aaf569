"""DP-FedAvg: the noisy mean of clipped deltas that a strategy folds in place of the deltas themselves.

Source:
    McMahan, Ramage, Talwar, Zhang: Learning Differentially Private Recurrent Language Models, ICLR 2018,
    arXiv:1710.06963, Algorithm 1 with equal weights and a fixed divisor (estimator f_f); with ``adaptive`` also
    Andrew et al., see ``adaptive_clip``. Departure: integers on a grid and discrete Gaussian noise (docs/adr/0012).
Laws: every device counts the same, whatever number of examples it claims; the divisor is the *expected* cohort, never
the number that came; whatever a device sends, its part of the sum is at most the clip, since the clip is applied here
and not taken from the device; what comes out of the fold depends on deltas through ``mean`` and ``next_clip`` alone.
Memory: two int64 vectors of the adapter's size and one delta at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.privacy.adaptive_clip import delta_noise_multiplier, next_clip
from aggregator.core.privacy.clipping import clip_to_grid, grid_for
from protocol.discrete_gaussian import SecretStream, discrete_gaussian

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas

__all__ = ["AdaptiveTerms", "CentralTerms", "PrivateMean", "private_mean"]

_COUNT_STEPS: Final = 1 << 20  # the count's grid, as fine as the deltas'


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveTerms:
    """How the clip moves; ``count_noise`` is sigma_b of arXiv:1905.03871."""

    quantile: float
    rate: float
    count_noise: float
    initial_clip: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CentralTerms:
    """The mechanism of one fold; ``noise_multiplier`` is that of everything the fold gives out, the count included."""

    clip: float
    noise_multiplier: float
    cohort: int  # the expected one: the divisor
    adaptive: AdaptiveTerms | None = None

    @property
    def delta_noise_multiplier(self) -> float:
        """The multiplier of the deltas' own noise: larger where a count is told too."""
        if self.adaptive is None:
            return self.noise_multiplier
        return delta_noise_multiplier(self.noise_multiplier, self.adaptive.count_noise)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMean:
    """What a fold may use of its deltas."""

    mean: NDArray[np.float32]  # [n_params]
    next_clip: float


def private_mean(deltas: Deltas, terms: CentralTerms, *, n_params: int, seed: bytes) -> PrivateMean:
    """Return the noisy mean of ``deltas`` and the next round's clip.

    Args:
        deltas: float32 [n_params] each, finite; their counts of examples are not used.
        terms: the mechanism.
        n_params: the adapter's length.
        seed: secret, fresh for every set of deltas, gone after the fold (docs/adr/0012).
    """
    grid, stream = grid_for(terms.clip), SecretStream(seed)
    total = np.zeros(n_params, np.int64)  # [n_params]
    n_within_minus_beyond = 0
    for delta, _ in deltas:
        points, is_within = clip_to_grid(delta, clip=terms.clip, grid=grid)
        total += points
        n_within_minus_beyond += 1 if is_within else -1
    # Up, so that the noise is never less than was accounted for.
    total += discrete_gaussian(math.ceil(terms.delta_noise_multiplier * grid.radius), n_params, stream)
    mean = (total * (grid.unit / terms.cohort)).astype(np.float32)
    return PrivateMean(mean=mean, next_clip=_moved(n_within_minus_beyond, terms, stream))


def _moved(n_within_minus_beyond: int, terms: CentralTerms, stream: SecretStream) -> float:
    adaptive = terms.adaptive
    if adaptive is None:
        return terms.clip
    # sum(b_i - 1/2) in halves is within - beyond, which moves by 1 with a device: the same noise in halves.
    (noise,) = discrete_gaussian(math.ceil(2 * adaptive.count_noise * _COUNT_STEPS), 1, stream)
    noisy = n_within_minus_beyond + int(noise) / _COUNT_STEPS
    fraction = 0.5 + noisy / (2 * terms.cohort)
    return next_clip(
        terms.clip, fraction, quantile=adaptive.quantile, rate=adaptive.rate, initial=adaptive.initial_clip
    )
