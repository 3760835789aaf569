"""A canary's audit of the real fold: under the claim with noise, far above it without."""

from __future__ import annotations

import dataclasses

from aggregator.core.privacy.accounting import epsilon_of
from aggregator.core.privacy.central import CentralTerms
from aggregator.core.privacy.ledger import Step
from benchmarks.dp_audit import audit_fold

DELTA = 1e-5


def test_the_proven_epsilon_is_below_the_claim_with_noise_and_far_above_without() -> None:
    terms = CentralTerms(clip=1.0, noise_multiplier=2.0, cohort=4)
    claimed = epsilon_of([Step(noise_multiplier=2.0, sampling_rate=1.0)], delta=DELTA)
    facts = {"n_rounds": 1, "n_trials": 1500, "n_params": 16, "delta": DELTA}
    assert 0.1 < audit_fold(terms, seed=1, **facts).epsilon_lower < claimed
    off = dataclasses.replace(terms, noise_multiplier=1e-5)
    assert audit_fold(off, seed=2, **facts).epsilon_lower > 2 * claimed
