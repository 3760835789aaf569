"""The terms of secure sums whose devices add the noise: ``[task.privacy.dp] mode = "distributed"``.

Law: the same settings and adapter size give the same terms, so that a restart goes on with the sum that it finds.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from protocol.errors import ConfigError
from protocol.secure_sum.distributed_noise import with_room
from protocol.secure_sum.messages import SumPlan

if TYPE_CHECKING:
    from aggregator.config import TaskSettings
    from protocol.sum_round import SumTerms

__all__ = ["sum_terms_of"]


def sum_terms_of(settings: TaskSettings, *, n_params: int) -> SumTerms | None:
    """Return what devices are told of a task's sums, or None where single updates are taken.

    Raises:
        ConfigError: there is no room for the noise, or some cohort leaves nobody's noise sure (the user's fault).
    """
    privacy = settings.privacy
    terms = privacy.terms(settings.cohort, settings.min_cohort)
    if terms is None or privacy.dp is None or privacy.dp.mode != "distributed" or privacy.dp.noise_multiplier is None:
        return terms
    try:
        return _with_noise(terms, privacy.dp.noise_multiplier, n_params)
    except ConfigError as error:
        raise ConfigError(f"task {settings.id}: privacy.dp: {error}") from error


@functools.lru_cache(maxsize=64)  # asked for with every message
def _with_noise(terms: SumTerms, noise_multiplier: float, n_params: int) -> SumTerms:
    plan = SumPlan.of(terms, fleet="any", task="any", round_=1, version=0, n_params=n_params)
    shaped = with_room(plan, noise_multiplier)
    return dataclasses.replace(
        terms,
        input_bits=shaped.input_bits,
        noise_levels=shaped.noise_levels,
        noise_multiplier=shaped.noise_multiplier,
    )
