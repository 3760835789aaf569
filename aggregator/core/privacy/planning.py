"""What a budget asks of a fleet: the noise, and whether anything can be learnt under it.

Law: privacy figures come from the accountant; what is said about learning is a rule of thumb and says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from aggregator.core.privacy.ledger import Step

if TYPE_CHECKING:
    from aggregator.ports import Accountant

__all__ = ["BudgetPlan", "BudgetQuestion", "EpsilonAfter", "plan_budget"]

# Noise over all rounds against what updates of one mind add up to. Below 1 the updates are the larger part; up to
# here some of it is learnt still, since updates use few directions and noise goes everywhere.
_TOO_NOISY: Final = 5.0
_MILESTONES: Final = 8  # rounds whose epsilon is shown


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetQuestion:
    """What somebody wants; ``n_clients`` is the fleet, ``cohort`` the expected number in a round."""

    n_clients: int
    cohort: int
    n_rounds: int
    epsilon: float
    delta: float
    n_params: int
    sampling: Literal["none", "poisson"]

    @property
    def sampling_rate(self) -> float:
        """The probability with which a device takes part in a round, as far as the accountant may count on it."""
        return self.cohort / self.n_clients if self.sampling == "poisson" else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EpsilonAfter:
    """The epsilon after so many rounds."""

    round: int
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPlan:
    """The answer; ratios are of L2 norms, an update's taken as the clip."""

    noise_multiplier: float
    sampling_rate: float
    epsilon_by_round: tuple[EpsilonAfter, ...]
    epsilon_unsampled: float  # towards whoever sees which devices are given work
    noise_to_update: float  # of one round: z sqrt(n_params) / cohort
    noise_to_learning: float  # of all rounds: noise grows with their square root, agreeing updates with their number
    cohort_needed: int  # for a ratio of 1 over all rounds, if every round may count on no chance
    verdict: Literal["learns", "learns-less", "too-noisy"]
    warnings: tuple[str, ...]


def plan_budget(question: BudgetQuestion, accountant: Accountant) -> BudgetPlan | None:
    """Return the least noise that keeps the budget and what it means; None if no noise does.

    Raises:
        StorageError: the accountant gave no answer.
    """
    rate, n_rounds, delta = question.sampling_rate, question.n_rounds, question.delta
    noise = accountant.noise((), n_rounds=n_rounds, sampling_rate=rate, epsilon=question.epsilon, delta=delta)
    if noise is None:
        return None

    def epsilon_after(n: int, sampling_rate: float) -> float:
        return accountant.epsilon([Step(noise_multiplier=noise, sampling_rate=sampling_rate, count=n)], delta=delta)

    ratio = noise * math.sqrt(question.n_params) / question.cohort
    total = ratio / math.sqrt(n_rounds)
    return BudgetPlan(
        noise_multiplier=noise,
        sampling_rate=rate,
        epsilon_by_round=tuple(EpsilonAfter(round=n, epsilon=epsilon_after(n, rate)) for n in _milestones(n_rounds)),
        epsilon_unsampled=epsilon_after(n_rounds, 1.0),
        noise_to_update=ratio,
        noise_to_learning=total,
        cohort_needed=_cohort_needed(question, noise, accountant),
        verdict="learns" if total <= 1 else "learns-less" if total <= _TOO_NOISY else "too-noisy",
        warnings=_warnings(question),
    )


def _milestones(n_rounds: int) -> list[int]:
    spread = {max(1, round(n_rounds ** (i / (_MILESTONES - 1)))) for i in range(_MILESTONES)}
    return sorted(spread | {n_rounds})


def _cohort_needed(question: BudgetQuestion, noise: float, accountant: Accountant) -> int:
    if question.sampling_rate < 1:
        found = accountant.noise(
            (), n_rounds=question.n_rounds, sampling_rate=1.0, epsilon=question.epsilon, delta=question.delta
        )
        noise = noise if found is None else found
    return math.ceil(noise * math.sqrt(question.n_params / question.n_rounds))


def _warnings(question: BudgetQuestion) -> tuple[str, ...]:
    found = []
    if question.delta >= 1 / question.n_clients:
        found.append(
            f"delta = {question.delta:g} is not below 1 / clients = {1 / question.n_clients:g}: a mechanism that "
            "publishes one device outright could claim it"
        )
    if question.epsilon > 10:
        found.append(
            f"epsilon = {question.epsilon:g} is a weak promise: odds may move by a factor of e^{question.epsilon:g}"
        )
    if question.sampling == "poisson" and question.cohort == question.n_clients:
        found.append("the cohort is the whole fleet: chance hides nobody")
    return tuple(found)
