"""What every strategy must do: fold a set, not a sequence; keep its state in shape and through storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.adapters.blob_store import FolderBlobStore
from aggregator.core.folding import FoldContext, StrategyConfig, fold_checked
from aggregator.core.strategies import STRATEGIES
from aggregator.vectors import load_state, save_state, to_bytes
from tests.aggregator.core.strategies.lora_fleet import (
    LAYOUT,
    Fleet,
    effect,
    first_state,
    fleet_for,
    folded,
    options_for,
)

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.core.folding import State

NAMES = sorted(STRATEGIES)


def permuted(fleet: Fleet, order: list[int]) -> Fleet:
    return Fleet(
        names=tuple(fleet.names[i] for i in order),
        deltas=tuple(fleet.deltas[i] for i in order),
        n_examples=tuple(fleet.n_examples[i] for i in order),
    )


def close(one: State, other: State) -> None:
    """Two states that do the same: factors of an SVD may differ where their products do not."""
    for name in one:
        if name == "adapter":
            np.testing.assert_allclose(effect(one[name]), effect(other[name]), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(one[name][-4:], other[name][-4:], rtol=1e-4, atol=1e-5)  # the head
        else:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@given(order=st.permutations(range(5)), seed=st.integers(0, 1000))
def test_the_order_of_the_updates_does_not_matter_beyond_rounding(name: str, order: list[int], seed: int) -> None:
    fleet, state = fleet_for(name, seed=seed, n_devices=5), first_state(name)
    close(folded(name, state, fleet), folded(name, state, permuted(fleet, order)))


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000), n_devices=st.integers(1, 7))
def test_equal_updates_give_equal_bytes_and_a_state_of_the_same_shape(name: str, seed: int, n_devices: int) -> None:
    fleet, state = fleet_for(name, seed=seed, n_devices=n_devices), first_state(name)
    once, again = folded(name, state, fleet), folded(name, state, fleet)
    assert {key: to_bytes(vector) for key, vector in once.items()} == {
        key: to_bytes(vector) for key, vector in again.items()
    }
    assert {key: (v.dtype, v.shape) for key, v in once.items()} == {
        key: (np.dtype(np.float32), v.shape) for key, v in state.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_no_update_changes_nothing(name: str) -> None:
    state = first_state(name)
    context = FoldContext(layout=LAYOUT, round=1, version=0, options=options_for(name))
    after = fold_checked(STRATEGIES[name], state, [], context)
    assert {key: to_bytes(vector) for key, vector in after.items()} == {
        key: to_bytes(vector) for key, vector in state.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_fold_does_not_write_into_what_it_was_given(name: str) -> None:
    fleet, state = fleet_for(name, seed=1, n_devices=4), first_state(name)
    for vector in (*state.values(), *fleet.deltas):
        vector.setflags(write=False)
    folded(name, state, fleet)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_goes_through_storage_and_folds_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    blobs = FolderBlobStore(tmp_path / "blobs")
    kept = stored = first_state(name)
    for version in range(3):
        fleet = fleet_for(name, seed=version, n_devices=4, version=version)
        kept = folded(name, kept, fleet, version=version)
        stored = load_state(save_state(folded(name, stored, fleet, version=version), blobs), blobs)
    assert {key: to_bytes(vector) for key, vector in kept.items()} == {
        key: to_bytes(vector) for key, vector in stored.items()
    }


@pytest.mark.parametrize("name", [n for n in NAMES if STRATEGIES[n].needs.secure_sum])
@given(seed=st.integers(0, 1000))
def test_what_goes_with_a_secure_sum_folds_the_mean_as_it_folds_the_single_deltas(name: str, seed: int) -> None:
    fleet, state = fleet_for(name, seed=seed, n_devices=4), first_state(name)
    mean = np.einsum("k,kn->n", fleet.shares, np.stack(fleet.deltas).astype(np.float64)).astype(np.float32)
    context = FoldContext(layout=LAYOUT, round=1, version=0, options=options_for(name))
    close(folded(name, state, fleet), STRATEGIES[name].fold(state, [(mean, sum(fleet.n_examples))], context))


def test_every_strategy_says_what_it_is_and_where_from() -> None:
    assert [name for name in NAMES if not STRATEGIES[name].title or "arXiv:" not in STRATEGIES[name].source] == []


def test_strategies_that_need_no_option_start_from_their_defaults() -> None:
    initial = np.zeros(LAYOUT.n_params, np.float32)
    needy = {"scaffold", "norm-bounding"}
    for name in set(NAMES) - needy:
        STRATEGIES[name].init(LAYOUT, StrategyConfig(initial_adapter=initial))
