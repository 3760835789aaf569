"""Every sum that is unmasked has the promised noise, whoever drops out; what it costs is never understated."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ConfigError, LocalProtocolError
from protocol.rdp import epsilon_of
from protocol.secure_sum import device
from protocol.secure_sum import distributed_noise as dn
from protocol.secure_sum.graph import choose
from protocol.secure_sum.roster import quantiser_of
from tests.protocol.secure_sum.parties import Parties, plan_for, seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from protocol.secure_sum.graph import GraphSpec
    from protocol.secure_sum.messages import SumPlan

N_PARAMS = 3000


def noisy_plan(noise_multiplier: float = 1.0, n_params: int = N_PARAMS, **changes: object) -> SumPlan:
    facts = {"min_cohort": 5, "max_cohort": 12, "dropout_fraction": 0.25, "corrupt_fraction": 0.2, "input_bits": 10}
    return dn.with_room(plan_for(n_params, **(facts | changes)), noise_multiplier)


def spec_for(plan: SumPlan, n: int) -> GraphSpec:
    return choose(n, corrupt_fraction=plan.corrupt_fraction, dropout_fraction=plan.dropout_fraction, server=plan.server)


def still_parties(plan: SumPlan, n: int, **changes: object) -> Parties:
    """Return devices that have nothing to say: their sum is the noise."""
    parties = Parties(plan, n, **changes)  # type: ignore[arg-type]
    for party in parties.parties.values():
        party.vector, party.weight = np.zeros(plan.n_params, np.float32), 1
    return parties


def levels_of(parties: Parties) -> NDArray[np.int64]:
    quantiser = quantiser_of(parties.plan)
    levels = parties.server.total()[:-1].astype(np.int64)
    levels[levels >= 2 ** (quantiser.bits - 1)] -= 2**quantiser.bits
    return levels


# -- the noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "drops",
    [
        {},
        {"shares": [0, 1]},
        {"inputs": [0, 1]},
        {"consents": [0, 1]},
        {"unmasking": [0, 1]},
        {"shares": [0], "inputs": [1]},
    ],
)
def test_whoever_drops_out_at_whatever_step_the_sum_has_the_promised_noise(drops: Mapping[str, list[int]]) -> None:
    plan = noisy_plan(1.5)
    parties = still_parties(plan, 9, drops=drops)
    parties.run_until()
    assert parties.server.step == "done"
    radius, n = quantiser_of(plan).n_levels, len(parties.server.survivors())
    variance = float((levels_of(parties).astype(np.float64) ** 2).mean())
    slack = 1 - 6 * math.sqrt(2 / N_PARAMS)
    honest = n - spec_for(plan, 9).n_corrupt  # the corrupt among them may have added nothing
    assert variance * honest / n >= slack * (1.5 * radius) ** 2
    expected = n * dn.share_sigma(plan, spec_for(plan, 9)) ** 2
    assert abs(variance / expected - 1) < 6 * math.sqrt(2 / N_PARAMS)


def test_the_sum_is_clipped_vectors_and_noise_of_mean_zero() -> None:
    plan = noisy_plan(0.05, clip=2.0)
    parties = still_parties(plan, 6)
    for party in parties.parties.values():
        party.vector = np.full(N_PARAMS, 1.0, np.float32)  # of norm 54.8: each is clipped to 2
    parties.run_until()
    mean = quantiser_of(plan).decode(parties.server.total()).mean
    assert np.linalg.norm(mean) < 2.0 * 1.5
    sigma = dn.share_sigma(plan, spec_for(plan, 6)) * quantiser_of(plan).step / math.sqrt(6)
    expected = 2.0 / math.sqrt(N_PARAMS)
    assert abs(mean.mean() - expected) < 5 * sigma / math.sqrt(N_PARAMS) + quantiser_of(plan).step


def test_the_sum_of_shares_is_distributed_as_one_discrete_gaussian() -> None:
    """Pearson's chi-square of a small noise over many coordinates; tau is below 10^-15 here."""
    n_params, n = 200_000, 5
    plan = noisy_plan(0.6, n_params, input_bits=4, max_cohort=n, corrupt_fraction=0.0)
    spec = spec_for(plan, n)
    sigma2 = n * dn.share_sigma(plan, spec) ** 2
    zero = np.zeros(n_params, np.int64)
    total = sum(dn.noised(zero, seed("share", i), plan=plan, spec=spec) for i in range(n))
    edge = math.ceil(8 * math.sqrt(sigma2))
    p = np.exp(-(np.arange(-edge, edge + 1.0) ** 2) / (2 * sigma2))
    expected = n_params * p / p.sum()
    observed = np.bincount(np.asarray(total) + edge, minlength=2 * edge + 1)
    often = expected > 10
    chi2 = float((((observed - expected) ** 2) / expected)[often].sum())
    degrees = int(often.sum()) - 1
    assert abs(chi2 - degrees) < 6 * math.sqrt(2 * degrees)


def test_devices_and_rounds_have_noise_of_their_own_and_a_restart_has_the_same() -> None:
    sums = {}
    for round_, restart in ((3, False), (3, True), (4, False)):
        parties = still_parties(noisy_plan(round=round_), 6, restart=restart)
        parties.run_until()
        sums[round_, restart] = parties.server.total().tobytes()
    assert sums[3, False] == sums[3, True]
    assert sums[3, False] != sums[4, False]


# -- what a device can change ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(levels=st.lists(st.integers(-(2**31), 2**31), min_size=1, max_size=40), radius=st.integers(1, 2**30))
def test_no_levels_are_longer_than_the_radius_after_the_clip(levels: list[int], radius: int) -> None:
    clipped = dn.clip_levels(np.array(levels, np.int64), radius).tolist()
    assert sum(one**2 for one in clipped) <= radius**2
    assert all(abs(a) <= abs(b) and a * b >= 0 for a, b in zip(clipped, levels, strict=True))
    if sum(one**2 for one in levels) <= radius**2:
        assert clipped == levels


def test_rounding_that_made_a_vector_longer_is_taken_back() -> None:
    """Every coordinate at 0.51 of a level: rounding nearly doubles the norm, which the clip in doubles cannot see."""
    plan = noisy_plan(1.0, 400, input_bits=4)
    quantiser = quantiser_of(plan)
    vector = np.full(400, np.float32(0.51 * quantiser.step))
    levels = quantiser.encode(vector, 1)[:-1].astype(np.int64)
    assert int(levels @ levels) == 400
    assert int(np.square(dn.clip_levels(levels, quantiser.n_levels)).sum()) <= quantiser.n_levels**2


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "honest"), [(1, 2), (1, 5), (2, 3)])
def test_the_bound_is_above_the_exact_divergence_of_shifted_sums(sigma: int, honest: int) -> None:
    """Renyi divergences of the sum of so many discrete Gaussians, by convolution, for a shift of one level."""
    support = np.arange(-40 * sigma, 40 * sigma + 1.0)
    share = np.exp(-(support**2) / (2 * sigma**2))
    total = share = share / share.sum()
    for _ in range(honest - 1):
        total = np.convolve(total, share)
    middle = total.size // 2
    near = total[middle - 12 * sigma : middle + 12 * sigma + 1]  # beyond, doubles hold no ratio
    eps = dn.divergence(1, sigma=sigma, honest=honest, n_params=1)
    for order in (2, 3, 5):
        moment = float((near[1:] * (near[1:] / near[:-1]) ** (order - 1)).sum())
        exact = math.log(moment) / (order - 1)
        assert exact <= order * eps**2 / 2 * (1 + 1e-9)
        assert exact > 0.9 * order * (1 / (math.sqrt(honest) * sigma)) ** 2 / 2 * 0.9  # and it is no loose one


def test_coarse_noise_pays_for_not_being_closed_under_sums() -> None:
    """With sigma = 1 and many coordinates the second term of Theorem 1 counts: 10 e^(-pi^2) sqrt(d) for two shares."""
    found = dn.divergence(1, sigma=1, honest=2, n_params=10**6)
    assert found == pytest.approx(1 / math.sqrt(2) + 10 * math.exp(-(math.pi**2)) * 1000)


def test_the_epsilon_is_that_of_a_gaussian_of_the_promised_noise_or_a_little_less() -> None:
    plan = noisy_plan(2.0, input_bits=16)
    for n in (5, 8, 12):
        found = dn.privacy_of(plan, spec_for(plan, n), n_sums=20, delta=1e-5)
        promised = epsilon_of(sampling_rate=1.0, noise_multiplier=2.0, n_steps=20, delta=1e-5)
        assert 0.99 * promised < found <= promised


def test_corrupt_devices_are_not_counted_and_make_the_others_add_more() -> None:
    trusting, careful = noisy_plan(corrupt_fraction=0.0), noisy_plan(corrupt_fraction=0.25)
    specs = [spec_for(one, 12) for one in (trusting, careful)]
    assert dn.n_honest(specs[1]) == specs[1].min_survivors - 3
    shares = [dn.share_sigma(p, s) / quantiser_of(p).n_levels for p, s in zip((trusting, careful), specs, strict=True)]
    assert shares[1] > shares[0]


# -- room --------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    multiplier=st.floats(0.05, 50),
    n_params=st.integers(1, 10**6),
    least=st.integers(5, 40),
    more=st.integers(0, 60),
    input_bits=st.integers(2, 16),
)
def test_a_sum_with_noise_has_room_for_everybody(
    multiplier: float, n_params: int, least: int, more: int, input_bits: int
) -> None:
    facts = {"min_cohort": least, "max_cohort": least + more, "input_bits": input_bits, "dropout_fraction": 0.1}
    plan = noisy_plan(multiplier, n_params, **(facts | {"corrupt_fraction": 0.1}))
    quantiser = quantiser_of(plan)
    assert quantiser.n_levels >= 2 ** (input_bits - 1) - 1
    assert plan.noise_levels is not None
    assert plan.max_cohort * quantiser.n_levels + plan.noise_levels <= 2 ** (quantiser.bits - 1) - 1
    for n in {least, least + more}:
        variance = n * dn.share_sigma(plan, spec_for(plan, n)) ** 2
        log_wraps = math.log(2 * n_params) - plan.noise_levels**2 / (2 * variance)
        assert log_wraps <= -dn.WRAP_BITS * math.log(2)


def test_plans_that_cannot_keep_the_promise_are_refused_before_anything_is_sent() -> None:
    good = noisy_plan()
    key = Parties(good, 5).parties["device-0000"].key
    assert good.noise_levels is not None
    for change in ({"noise_levels": good.noise_levels // 2}, {"weight_cap": 2}, {"noise_multiplier": 9.0}):
        with pytest.raises(ConfigError):
            device.advertise(dataclasses.replace(good, **change), name="device-0000", key=key, entropy=seed("e"))
    with pytest.raises(ConfigError, match="more than 32 bits"):
        noisy_plan(1e4, input_bits=24)
    with pytest.raises(ConfigError, match="noise is sure"):
        noisy_plan(corrupt_fraction=0.6)


def test_the_promise_is_part_of_what_is_signed() -> None:
    good = noisy_plan()
    assert good.digest != dataclasses.replace(good, noise_multiplier=1.1).digest


def test_no_other_noise_takes_the_place_of_the_promised() -> None:
    parties = still_parties(noisy_plan(), 5)
    messages = parties.run_until("inputs")
    name, data = next(iter(messages.items()))
    party = parties.parties[name]
    assert party.state is not None
    with pytest.raises(LocalProtocolError, match="the plan says"):
        device.take_delivery(
            party.state, data, vector=party.vector, weight=1, key=party.key, noise=lambda levels, _seed: levels
        )
