"""The claim that needs no roster is never more than what holds for each roster."""

from __future__ import annotations

import math

import pytest

from protocol.errors import ConfigError
from protocol.fields import FieldError, plain
from protocol.rdp import epsilon_of
from protocol.secure_sum import distributed_noise as dn
from protocol.secure_sum.graph import choose
from protocol.secure_sum.messages import SumPlan
from protocol.secure_sum.noise_claim import claimed_multiplier, epsilon_at
from protocol.sum_round import SumTerms

FACTS: dict[str, object] = {
    "clip": 1.0,
    "weight_cap": 1,
    "min_cohort": 5,
    "max_cohort": 12,
    "corrupt_fraction": 0.2,
    "dropout_fraction": 0.2,
    "server": "curious",
}


def terms(**changes: object) -> SumTerms:
    return SumTerms(**{**FACTS, "input_bits": 16, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("z", [0.5, 1.0, 3.0])
def test_the_claim_is_below_what_every_roster_gives(bits: int, z: float) -> None:
    plan = SumPlan.of(terms(input_bits=bits), fleet="f", task="t", round_=1, version=0, n_params=5000)
    plan = dn.with_room(plan, z)
    told = terms(input_bits=plan.input_bits, noise_levels=plan.noise_levels, noise_multiplier=z)
    for n in range(5, 13):
        spec = choose(n, corrupt_fraction=0.2, dropout_fraction=0.2, server="curious")
        assert claimed_multiplier(told) <= (1 + 1e-12) / dn.concentration(plan, spec)
    if bits == 16:
        assert claimed_multiplier(told) == pytest.approx(z, rel=1e-9)  # and it gives nothing away


def test_claims_add_up_as_the_sums_do() -> None:
    z, delta = 2.0, 1e-5
    expected = epsilon_of(sampling_rate=1.0, noise_multiplier=z, n_steps=20, delta=delta)
    assert epsilon_at(20 / z**2, delta=delta) == pytest.approx(expected)
    assert epsilon_at(0.0, delta=delta) == 0
    assert math.isfinite(epsilon_at(1e6, delta=delta))


def test_terms_without_noise_are_the_bytes_of_before_and_half_a_promise_is_none() -> None:
    assert "noise_levels" not in plain(terms())
    assert "noise_multiplier" not in plain(terms())
    with pytest.raises(ConfigError, match="no noise"):
        claimed_multiplier(terms())
    with pytest.raises(FieldError, match="both or neither"):
        terms(noise_multiplier=1.0)
    with pytest.raises(FieldError, match="weight_cap"):
        terms(noise_multiplier=1.0, noise_levels=100, weight_cap=2)
