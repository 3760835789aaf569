"""Which LoRA strategies average what the adapters do, and which only their factors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.aggregator.core.strategies.lora_fleet import (
    Fleet,
    adapter_of,
    effect,
    first_state,
    fleet_for,
    folded,
    make_layout,
    options_for,
)

# The papers' claim in float64 arithmetic; what is left is the rounding of factors of about 0.3 to float32.
EXACT = 1e-6


def error(name: str, *, seed: int, n_devices: int, version: int = 0) -> float:
    """Return how far the folded model is from the mean of the local models, in the base weights."""
    state = first_state(name, seed=seed)
    fleet = fleet_for(name, seed=seed, n_devices=n_devices, version=version)
    after = folded(name, state, fleet, version=version)
    got = effect(adapter_of(after)) + after.get("base", np.zeros(1))
    return float(np.linalg.norm(got - fleet.mean_effect(adapter_of(state))))


@pytest.mark.parametrize(
    ("name", "version"), [("fedex-lora", 0), ("flora", 0), ("ffa-lora", 0), ("rolora", 0), ("rolora", 1)]
)
@given(seed=st.integers(0, 1000), n_devices=st.integers(1, 7))
def test_an_exact_strategy_folds_what_the_adapters_do(name: str, version: int, seed: int, n_devices: int) -> None:
    assert error(name, seed=seed, n_devices=n_devices, version=version) < EXACT


@given(seed=st.integers(0, 1000), n_devices=st.integers(2, 7))
def test_averaging_the_factors_is_not_exact_and_fedit_says_by_how_much(seed: int, n_devices: int) -> None:
    off = error("fedit", seed=seed, n_devices=n_devices)
    assert off > 1e3 * EXACT
    state, fleet = first_state("fedit", seed=seed), fleet_for("fedit", seed=seed, n_devices=n_devices)
    whole = np.linalg.norm(fleet.mean_effect(adapter_of(state)))
    np.testing.assert_allclose(folded("fedit", state, fleet)["aggregation_error"][0], off / whole, rtol=1e-4)


def test_one_device_alone_has_no_aggregation_error() -> None:
    assert error("fedit", seed=3, n_devices=1) < EXACT


@given(seed=st.integers(0, 1000))
def test_flexlora_is_exact_while_the_rank_suffices(seed: int) -> None:
    layout = make_layout(rank=3)  # the v pair is 3 x 7: rank 3 is all that it can have
    state = first_state("flexlora", seed=seed, layout=layout)
    fleet = fleet_for("flexlora", seed=seed, n_devices=4, layout=layout)
    after = folded("flexlora", state, fleet, layout=layout)
    n_q = 6 * 5
    got, expected = effect(adapter_of(after), layout), fleet.mean_effect(adapter_of(state), layout)
    np.testing.assert_allclose(got[n_q:], expected[n_q:], atol=EXACT)


@given(seed=st.integers(0, 1000))
def test_flexlora_truncates_to_the_best_of_the_rank(seed: int) -> None:
    layout = make_layout(rank=2)
    state = first_state("flexlora", seed=seed, layout=layout)
    fleet = fleet_for("flexlora", seed=seed, n_devices=4, layout=layout)
    after = folded("flexlora", state, fleet, layout=layout)
    mean = fleet.mean_effect(adapter_of(state), layout)[: 6 * 5].reshape(6, 5)
    off = effect(adapter_of(after), layout)[: 6 * 5].reshape(6, 5) - mean
    values = np.linalg.svd(mean, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(off), np.linalg.norm(values[2:]), rtol=1e-4, atol=1e-6)


def test_flora_averages_every_device_and_not_only_the_first() -> None:
    state, fleet = first_state("flora"), fleet_for("flora", seed=5, n_devices=3)
    first = Fleet(names=fleet.names[:1], deltas=fleet.deltas[:1], n_examples=fleet.n_examples[:1])
    assert not np.allclose(folded("flora", state, fleet)["base"], folded("flora", state, first)["base"])


def test_flora_begins_lora_anew_and_keeps_adding_to_the_base() -> None:
    state = first_state("flora")
    once = folded("flora", state, fleet_for("flora", seed=1, n_devices=3))
    twice = folded("flora", once, fleet_for("flora", seed=2, n_devices=3))
    np.testing.assert_array_equal(adapter_of(twice)[:-4], adapter_of(state)[:-4])
    expected = once["base"] + fleet_for("flora", seed=2, n_devices=3).mean_effect(adapter_of(once))
    np.testing.assert_allclose(twice["base"] + effect(adapter_of(twice)), expected, atol=EXACT)


@given(seed=st.integers(0, 1000), ranks=st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_flora_is_exact_for_devices_of_different_ranks(seed: int, ranks: list[int]) -> None:
    state, fleet = first_state("flora", seed=seed), fleet_for("flora", seed=seed, n_devices=len(ranks))
    deltas = tuple(masked(delta, rank) for delta, rank in zip(fleet.deltas, ranks, strict=True))
    options = options_for("flora", ranks=dict(zip(fleet.names, ranks, strict=True)))
    after = folded("flora", state, replace(fleet, deltas=deltas), options=options)
    local = [effect(masked(adapter_of(state), rank) + delta) for rank, delta in zip(ranks, deltas, strict=True)]
    got = effect(adapter_of(after)) + after["base"]
    np.testing.assert_allclose(got, np.einsum("k,kn->n", fleet.shares, np.stack(local)), atol=EXACT)


@given(seed=st.integers(0, 1000), rank=st.integers(1, 4))
def test_a_device_of_any_rank_alone_gets_its_own_adapter_back(seed: int, rank: int) -> None:
    for name in ("hetlora", "flexlora"):
        options = options_for(name, default_rank=rank)
        state = first_state(name, seed=seed)
        device = np.random.default_rng(seed).normal(0, 0.1, adapter_of(state).size).astype(np.float32)
        fleet = Fleet(names=("only",), deltas=(masked(device, rank),), n_examples=(5,))
        after = folded(name, state, fleet, options=options)
        local = masked(adapter_of(state), rank) + masked(device, rank)
        np.testing.assert_allclose(effect(adapter_of(after)), effect(local), atol=1e-5)


def masked(vector: np.ndarray, rank: int) -> np.ndarray:
    """The adapter of a device of ``rank``, written out by hand for the layout: A's rows, B's columns."""
    kept = vector.copy()
    offset = 0
    for n_out, n_in in ((6, 5), (3, 7)):
        kept[offset : offset + 4 * n_in].reshape(4, n_in)[rank:] = 0
        offset += 4 * n_in
        kept[offset : offset + n_out * 4].reshape(n_out, 4)[:, rank:] = 0
        offset += n_out * 4
    return kept


def test_hetlora_weighs_by_what_the_devices_changed() -> None:
    state = first_state("hetlora")
    loud, quiet = np.zeros(adapter_of(state).size, np.float32), np.zeros(adapter_of(state).size, np.float32)
    fleet = Fleet(names=("a", "b"), deltas=(loud + np.float32(1), quiet), n_examples=(1, 1000))
    after = adapter_of(folded("hetlora", state, fleet))
    share = (after - adapter_of(state))[:-4]  # in each pair the share of the loud device
    q, v = share[: 4 * 5 + 6 * 4], share[4 * 5 + 6 * 4 :]
    for pair, one in (("q", q), ("v", v)):
        np.testing.assert_allclose(one, one[0], atol=1e-6, err_msg=pair)
        assert one[0] > 0.5  # by examples it would be 0.001
