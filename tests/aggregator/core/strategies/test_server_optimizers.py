"""Folds with memory, against the papers' formulas written out one value at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.folding import FoldContext, Member
from aggregator.core.strategies import STRATEGIES, fedbuff
from tests.aggregator.core.strategies.lora_fleet import (
    LAYOUT,
    adapter_of,
    first_state,
    fleet_for,
    folded,
    options_for,
)


def mean_delta(fleet: object) -> np.ndarray:
    return np.einsum("k,kn->n", fleet.shares, np.stack(fleet.deltas).astype(np.float64))  # type: ignore[attr-defined]


@given(seed=st.integers(0, 1000))
def test_fedavgm_without_momentum_is_federated_averaging(seed: int) -> None:
    fleet = fleet_for("fedavg", seed=seed, n_devices=4)
    plain = folded("fedavg", first_state("fedavg"), fleet)
    options = options_for("fedavgm", momentum=0.0)
    after = folded("fedavgm", first_state("fedavgm"), fleet, options=options)
    np.testing.assert_array_equal(adapter_of(after), adapter_of(plain))


def test_fedavgm_remembers() -> None:
    fleets = [fleet_for("fedavgm", seed=seed, n_devices=3) for seed in range(3)]
    state = first_state("fedavgm")
    w, v = adapter_of(state).astype(np.float64), 0.0
    for fleet in fleets:
        state = folded("fedavgm", state, fleet)
        v = 0.9 * v + mean_delta(fleet)
        w = w + v
    np.testing.assert_allclose(adapter_of(state), w, atol=1e-6)


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_the_adaptive_folds_are_algorithm_2_one_value_at_a_time(name: str) -> None:
    state = first_state(name)
    o = options_for(name)
    n = adapter_of(state).size
    w = [float(x) for x in adapter_of(state)]
    m, v = [0.0] * n, [o.tau**2] * n
    for seed in range(4):
        fleet = fleet_for(name, seed=seed, n_devices=3)
        state = folded(name, state, fleet)
        for i, d in enumerate(mean_delta(fleet)):
            m[i] = o.beta1 * m[i] + (1 - o.beta1) * d
            if name == "fedadagrad":
                v[i] = v[i] + d * d
            elif name == "fedadam":
                v[i] = o.beta2 * v[i] + (1 - o.beta2) * d * d
            else:
                v[i] = v[i] - (1 - o.beta2) * d * d * math.copysign(1, v[i] - d * d)
            w[i] += o.server_learning_rate * m[i] / (math.sqrt(v[i]) + o.tau)
    np.testing.assert_allclose(adapter_of(state), w, atol=1e-5)


@given(seed=st.integers(0, 1000), n_devices=st.integers(1, 6))
def test_fedbuff_without_staleness_is_federated_averaging_bit_for_bit(seed: int, n_devices: int) -> None:
    fleet = fleet_for("fedavg", seed=seed, n_devices=n_devices)
    plain = folded("fedavg", first_state("fedavg"), fleet)
    np.testing.assert_array_equal(adapter_of(folded("fedbuff", first_state("fedbuff"), fleet)), adapter_of(plain))


def stale_fold(staleness: list[int], **options: object) -> np.ndarray:
    """The step of a buffer whose update i is all ones and ``staleness[i]`` old."""
    state = {"adapter": np.zeros(LAYOUT.n_params, np.float32)}
    context = FoldContext(
        layout=LAYOUT,
        round=1,
        version=0,
        options=fedbuff.Options(**options),  # type: ignore[arg-type]
        members=tuple(Member(device=str(i), staleness=one) for i, one in enumerate(staleness)),
    )
    ones = np.ones(LAYOUT.n_params, np.float32)
    return fedbuff.fold(state, [(ones, 10) for _ in staleness], context)["adapter"]


def test_fedbuff_weighs_by_the_root_of_the_age_and_divides_by_the_buffer() -> None:
    np.testing.assert_allclose(stale_fold([0, 3]), (1 + 0.5) / 2, rtol=1e-6)
    np.testing.assert_allclose(stale_fold([0, 3], weight_by_examples=False), (1 + 0.5) / 2, rtol=1e-6)
    np.testing.assert_allclose(stale_fold([8], server_learning_rate=3.0), 3 / 3, rtol=1e-6)


def test_fedbuff_leaves_out_what_is_too_old() -> None:
    np.testing.assert_array_equal(stale_fold([0, 5], max_staleness=4), 1)
    np.testing.assert_array_equal(stale_fold([5], max_staleness=4), 0)


def test_fedprox_folds_as_fedavg_does() -> None:
    assert STRATEGIES["fedprox"].fold is STRATEGIES["fedavg"].fold


@given(seed=st.integers(0, 1000))
def test_scaffold_keeps_the_mean_of_all_control_variates(seed: int) -> None:
    """Each device's own control starts at zero; the service's stays their mean over all N, whoever took part."""
    rng = np.random.default_rng(seed)
    n, n_devices = LAYOUT.n_params, 10
    own = np.zeros((n_devices, n), np.float64)
    state = first_state("scaffold")
    for version in range(3):
        present = sorted(rng.choice(n_devices, size=4, replace=False))
        changes = rng.normal(0, 0.1, (4, n)).astype(np.float32)
        own[present] += changes
        deltas = [(np.concatenate([np.zeros(n, np.float32), change]), 1) for change in changes]
        context = FoldContext(layout=LAYOUT, round=version + 1, version=version, options=options_for("scaffold"))
        state = STRATEGIES["scaffold"].fold(state, deltas, context)
    np.testing.assert_allclose(state["control"], own.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(STRATEGIES["scaffold"].broadcast(state)[n:], state["control"])
