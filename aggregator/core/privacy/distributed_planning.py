"""What a budget asks of a fleet whose devices add the noise themselves (``mode = "distributed"``).

Law: figures of noise and privacy are those of the graph and the terms that such a task would have, at this cohort; what
follows about learning is a rule of thumb and says so, as in ``planning``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.secure_sum.distributed_noise import n_honest, with_room
from protocol.secure_sum.graph import choose
from protocol.secure_sum.messages import SumPlan
from protocol.secure_sum.roster import quantiser_of

if TYPE_CHECKING:
    from aggregator.core.privacy.planning import BudgetPlan, BudgetQuestion

__all__ = ["SumsPlan", "plan_sums"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsPlan:
    """The answer; ratios are of L2 norms, an update's taken as the clip, with nobody dropped out."""

    noise_multiplier: float
    least_survivors: int
    n_corrupt: int
    n_honest: int
    sum_bits: int
    noise_to_update: float  # of one round: z sqrt(n_params * cohort / honest) / cohort
    noise_to_learning: float  # of all rounds
    cohort_needed: int  # for a ratio of 1 over all rounds, with as large a part of it honest


def plan_sums(question: BudgetQuestion, plan: BudgetPlan, *, corrupt: float, dropout: float) -> SumsPlan:
    """Return what ``plan``, made without sampling, means where each device adds its share.

    Raises:
        ConfigError: no secure sum of this cohort withstands the fractions, or has room for the noise (the user errs).
    """
    n, d, z = question.cohort, question.n_params, plan.noise_multiplier
    spec = choose(n, corrupt_fraction=corrupt, dropout_fraction=dropout, server="lying")
    facts = {"fleet": "any", "task": "any", "round": 1, "version": 0, "weight_cap": 1, "clip": 1.0}
    sums = SumPlan(
        **facts,  # type: ignore[arg-type]  # names and figures
        n_params=d,
        min_cohort=n,
        max_cohort=n,
        corrupt_fraction=corrupt,
        dropout_fraction=dropout,
    )
    shaped = with_room(sums, z)
    part = n_honest(spec) / n
    ratio = z * math.sqrt(d / part) / n
    return SumsPlan(
        noise_multiplier=z,
        least_survivors=spec.min_survivors,
        n_corrupt=spec.n_corrupt,
        n_honest=n_honest(spec),
        sum_bits=quantiser_of(shaped).bits,
        noise_to_update=ratio,
        noise_to_learning=ratio / math.sqrt(question.n_rounds),
        cohort_needed=math.ceil(z * math.sqrt(d / part / question.n_rounds)),
    )
