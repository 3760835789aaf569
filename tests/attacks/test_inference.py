"""What the aggregator, or whoever sees versions, can tell of a device's sentences: with a defence, and without it.

The same attacks on real sentences are ``make bench-attacks``. Trials are seeded, so the rates are the same every time.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.attacks import Case, Pool, Rates, attack
from protocol.plan import SampleDp

N_TRIALS = 100
FOLD = Case(view="central", n_examples=4, n_devices=3)


@pytest.fixture(scope="module")
def pool() -> Pool:
    """Vectors that have much in common, as an encoder's outputs do."""
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.3, 64) + rng.normal(0, 0.3, (300, 64))
    return Pool(features=features.astype(np.float32), labels=rng.integers(0, 2, 300))


def rates(pool: Pool, case: Case) -> Rates:
    return attack(pool, case, n_trials=N_TRIALS, seed=1)


def test_the_aggregator_names_the_one_example_of_a_sealed_update(pool: Pool) -> None:
    """Nothing defends here, and the documents say so: this is what the other levels are for."""
    found = rates(pool, Case(view="update", n_examples=1))
    assert found.identified > 0.95
    assert found.membership_auc > 0.95


def test_a_sum_hides_which_device_had_a_sentence_far_better_than_an_update(pool: Pool) -> None:
    alone = rates(pool, Case(view="update", n_examples=16))
    summed = rates(pool, Case(view="sum", n_examples=16, n_devices=10))
    assert alone.identified > 0.8
    assert summed.identified < 0.2
    assert alone.membership_auc - summed.membership_auc > 0.2


def test_central_noise_hides_a_member_and_without_it_nothing_does(pool: Pool) -> None:
    """With a Gaussian of z clips no attack's AUC is above Phi(1 / (z sqrt 2)): 0.59 at z = 3; the rest is chance."""
    noisy = rates(pool, dataclasses.replace(FOLD, noise_multiplier=3.0))
    bare = rates(pool, dataclasses.replace(FOLD, noise_multiplier=1e-5))
    assert 0.4 < noisy.membership_auc < 0.7
    assert bare.membership_auc > 0.8


def test_noise_of_the_devices_own_hides_a_member_of_a_sum_and_without_it_nothing_does(pool: Pool) -> None:
    """As above, and a little better: noise for devices that may drop out is there although nobody does."""
    fold = dataclasses.replace(FOLD, view="noisy-sum", n_devices=5)
    noisy = rates(pool, dataclasses.replace(fold, noise_multiplier=3.0))
    bare = rates(pool, dataclasses.replace(fold, noise_multiplier=1e-3))
    assert 0.4 < noisy.membership_auc < 0.7
    assert noisy.identified < 0.1
    assert bare.membership_auc > 0.7


def test_dp_sgd_hides_an_example_from_the_aggregator_and_without_noise_does_not(pool: Pool) -> None:
    dp = SampleDp(clip=1.0, noise_multiplier=1.0)
    noisy = rates(pool, Case(view="update", n_examples=16, dp=dp))
    bare = rates(pool, Case(view="update", n_examples=16, dp=dataclasses.replace(dp, noise_multiplier=0.05)))
    assert 0.35 < noisy.membership_auc < 0.65
    assert noisy.identified < 0.25
    assert bare.membership_auc > 0.75
