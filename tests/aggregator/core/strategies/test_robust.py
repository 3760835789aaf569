"""Robust folds: what a minority of liars can do, and that memory does not grow with devices."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator.core import passes
from tests.aggregator.core.strategies.lora_fleet import Fleet, adapter_of, first_state, fleet_for, folded, options_for

ROBUST = ["coordinate-median", "trimmed-mean", "multi-krum", "norm-bounding"]


def with_liars(fleet: Fleet, factor: float, n_liars: int) -> Fleet:
    deltas = tuple(np.float32(factor) * d if i < n_liars else d for i, d in enumerate(fleet.deltas))
    return Fleet(names=fleet.names, deltas=deltas, n_examples=fleet.n_examples)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("factor", [-1.0, 1000.0, -1000.0])
def test_two_liars_of_ten_do_not_move_the_adapter_far(name: str, factor: float) -> None:
    options = {"trimmed-mean": {"trimmed_fraction": 0.2}, "multi-krum": {"n_byzantine": 2}}.get(name, {})
    fleet = fleet_for(name, seed=1, n_devices=10)
    state = first_state(name)
    honest = folded(name, state, fleet, options=options_for(name, **options))
    lied = folded(name, state, with_liars(fleet, factor, 2), options=options_for(name, **options))
    assert np.abs(adapter_of(lied) - adapter_of(honest)).max() < 0.2
    if abs(factor) > 1:
        plain = folded("fedavg", first_state("fedavg"), with_liars(fleet, factor, 2))
        assert np.abs(adapter_of(plain) - adapter_of(honest)).max() > 1


def test_the_median_is_numpys() -> None:
    fleet, state = fleet_for("coordinate-median", seed=2, n_devices=6), first_state("coordinate-median")
    expected = adapter_of(state) + np.median(np.stack(fleet.deltas), axis=0)
    np.testing.assert_allclose(adapter_of(folded("coordinate-median", state, fleet)), expected, atol=1e-6)


def test_krum_itself_takes_the_one_in_the_middle() -> None:
    state = first_state("multi-krum")
    n = adapter_of(state).size
    values = [0.0, 1.0, 1.1, 1.2, 9.0]
    deltas = tuple(np.full(n, value, np.float32) for value in values)
    fleet = Fleet(names=tuple("abcde"), deltas=deltas, n_examples=(1,) * 5)
    after = folded("multi-krum", state, fleet, options=options_for("multi-krum", n_byzantine=1, n_selected=1))
    np.testing.assert_allclose(adapter_of(after) - adapter_of(state), 1.1, atol=1e-6)


@pytest.mark.parametrize("name", ["coordinate-median", "trimmed-mean", "multi-krum"])
def test_many_passes_fold_to_what_one_pass_folds_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, state = fleet_for(name, seed=3, n_devices=7), first_state(name)
    in_one = folded(name, state, fleet)
    monkeypatch.setattr(passes, "COLUMN_BYTES", 4 * 7 * 5)  # five values at a time
    np.testing.assert_allclose(adapter_of(folded(name, state, fleet)), adapter_of(in_one), atol=1e-6)


def test_a_short_delta_is_left_as_it_is_by_norm_bounding() -> None:
    fleet = fleet_for("norm-bounding", seed=4, n_devices=4)
    options = options_for("norm-bounding", max_norm=1e6)
    after = folded("norm-bounding", first_state("norm-bounding"), fleet, options=options)
    plain = folded("fedavg", first_state("fedavg"), fleet)
    np.testing.assert_allclose(adapter_of(after), adapter_of(plain), atol=1e-7)
