"""Attacks the real private fold: a canary device takes part or does not, and an auditor guesses which.

Workflow of one trial: other devices' deltas -> with or without the canary -> ``private_mean`` -> the strategy's fold ->
the auditor's statistic, the component of the fold along the canary. Law: epsilon is bounded from below by the exact
(Clopper-Pearson) bounds of the two errors on trials that the threshold was not chosen on, so an epsilon below the bound
is refuted with the stated confidence; the bound can be below the truth, and grows with trials.

Source:
    Jagielski, Ullman, Oprea: Auditing Differentially Private Machine Learning, NeurIPS 2020, arXiv:2006.07709;
    Nasr et al.: Adversary Instantiation, IEEE S&P 2021, arXiv:2101.04535. Departure: several rounds are audited by
    their mean statistic, and both directions of the error are tried, the confidence shared between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import beta

from aggregator.core.folding import ADAPTER, FoldContext, fold_checked
from aggregator.core.privacy.central import private_mean
from aggregator.core.strategies import STRATEGIES
from protocol.layout import Layout, TensorSlot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.privacy.central import CentralTerms

__all__ = ["Audit", "audit_fold", "statistics_of"]

_CONFIDENCE: Final = 0.95
_N_OTHERS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the auditor can prove."""

    epsilon_lower: float
    n_trials: int
    statistics_in: NDArray[np.float64]
    statistics_out: NDArray[np.float64]


def audit_fold(terms: CentralTerms, *, n_rounds: int, n_trials: int, n_params: int, delta: float, seed: int) -> Audit:
    """Return the lower bound on epsilon from ``n_trials`` runs with the canary and as many without."""
    rng = np.random.default_rng(seed)
    inside = statistics_of(terms, rng, n_rounds=n_rounds, n_trials=n_trials, n_params=n_params, has_canary=True)
    outside = statistics_of(terms, rng, n_rounds=n_rounds, n_trials=n_trials, n_params=n_params, has_canary=False)
    half = n_trials // 2
    threshold, flips = _best_threshold(inside[:half], outside[:half], delta=delta)
    lower = _lower_bound(inside[half:], outside[half:], threshold, delta=delta, flips=flips)
    return Audit(epsilon_lower=lower, n_trials=n_trials, statistics_in=inside, statistics_out=outside)


def statistics_of(
    terms: CentralTerms,
    rng: np.random.Generator,
    *,
    n_rounds: int,
    n_trials: int,
    n_params: int,
    has_canary: bool,
) -> NDArray[np.float64]:
    """Return the auditor's statistic of each trial: how far the folds moved along the canary, in clips."""
    layout = Layout(tensors=(TensorSlot(name="all", shape=(n_params,), offset=0, role="head"),))
    canary = np.zeros(n_params, np.float32)
    canary[0] = 10 * terms.clip  # longer than the clip: the fold must not care
    others = [(rng.normal(0, 0.01 * terms.clip, n_params).astype(np.float32), 1) for _ in range(_N_OTHERS)]
    known = sum(float(one[0]) for one, _ in others)
    found = np.empty(n_trials)
    for trial in range(n_trials):
        state = {ADAPTER: np.zeros(n_params, np.float32)}
        for round_ in range(n_rounds):
            deltas = [*others, (canary, 1)] if has_canary else others
            mean = private_mean(deltas, terms, n_params=n_params, seed=rng.bytes(32)).mean
            context = FoldContext(layout=layout, round=round_ + 1, version=round_)
            state = dict(fold_checked(STRATEGIES["fedavg"], state, [(mean, 1)], context))
        moved = float(state[ADAPTER][0]) * terms.cohort / n_rounds - known
        found[trial] = moved / terms.clip
    return found


def _best_threshold(inside: NDArray[np.float64], outside: NDArray[np.float64], *, delta: float) -> tuple[float, bool]:
    candidates = np.quantile(np.concatenate([inside, outside]), np.linspace(0.002, 0.998, 250))
    tried = [
        (_lower_bound(inside, outside, float(one), delta=delta, flips=flips), float(one), flips)
        for one in candidates
        for flips in (False, True)
    ]
    _, threshold, flips = max(tried)
    return threshold, flips


def _lower_bound(
    inside: NDArray[np.float64], outside: NDArray[np.float64], threshold: float, *, delta: float, flips: bool
) -> float:
    """``(eps, delta)`` bounds P[in says "in"] by e^eps P[out says "in"] + delta, and likewise for "out"."""
    if flips:
        inside, outside = -outside, -inside
        threshold = -threshold
    hits, false_alarms = int((inside > threshold).sum()), int((outside > threshold).sum())
    level = (1 - _CONFIDENCE) / 2  # for each of the two bounds
    low = float(beta.ppf(level, hits, len(inside) - hits + 1)) if hits else 0.0
    high = (
        1.0
        if false_alarms == len(outside)
        else float(beta.ppf(1 - level, false_alarms + 1, len(outside) - false_alarms))
    )
    return max(0.0, math.log((low - delta) / high)) if low > delta else 0.0
