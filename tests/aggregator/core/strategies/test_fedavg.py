"""Federated averaging against a slow exact reference."""

from __future__ import annotations

import math
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator.core.folding import ADAPTER, FoldContext, StrategyConfig
from aggregator.core.partial_sums import AT_ONCE
from aggregator.core.strategies import fedavg
from protocol.layout import Layout, TensorSlot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

N = 5
VECTORS = hnp.arrays(np.float32, N, elements=st.floats(-100, 100, width=32))
CLIENTS = st.lists(st.tuples(VECTORS, st.integers(1, 10**6)), min_size=1, max_size=8)


def context(n_params: int = N) -> FoldContext:
    layout = Layout(tensors=(TensorSlot(name="w", shape=(n_params,), offset=0, role="head"),))
    return FoldContext(layout=layout, round=1, version=0)


def exact_reference(old: NDArray[np.float32], clients: list[tuple[NDArray[np.float32], int]]) -> list[float]:
    """The weighted mean, each value summed without any rounding but the last (math.fsum)."""
    n_total = sum(n for _, n in clients)
    return [
        math.fsum([float(old[i]), math.fsum(float(delta[i]) * n for delta, n in clients) / n_total]) for i in range(N)
    ]


@settings(deadline=None)
@given(old=VECTORS, clients=CLIENTS)
def test_the_fold_is_the_weighted_mean_rounded_to_float32(
    old: NDArray[np.float32], clients: list[tuple[NDArray[np.float32], int]]
) -> None:
    new = fedavg.fold({ADAPTER: old}, clients, context())[ADAPTER]
    assert new.dtype == np.float32
    # float64 sums of 8 values err by less than 1e-13 of the largest, 100: far below half a unit of float32, which may
    # still flip between two neighbours.
    np.testing.assert_allclose(new, exact_reference(old, clients), rtol=2**-23, atol=1e-11)


def test_a_client_alone_replaces_the_adapter_by_its_own() -> None:
    old, local = np.array([1, 2], np.float32), np.array([3, -4], np.float32)
    new = fedavg.fold({ADAPTER: old}, [(local - old, 17)], context(2))
    np.testing.assert_array_equal(new[ADAPTER], local)


def test_weights_are_counts_of_examples() -> None:
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    new = fedavg.fold({ADAPTER: zero}, [(one, 300), (zero, 100)], context(1))
    assert new[ADAPTER][0] == np.float32(0.75)


def test_no_update_leaves_the_state_as_it_is() -> None:
    state = fedavg.init(context(2).layout, StrategyConfig(initial_adapter=np.array([1, 2], np.float32)))
    assert fedavg.fold(state, [], context(2)) is state


@pytest.mark.parametrize("n_examples", [0, -1])
def test_a_weight_that_is_not_positive_is_the_callers_mistake(n_examples: int) -> None:
    with pytest.raises(ValueError, match="n_examples"):
        fedavg.fold({ADAPTER: np.zeros(1, np.float32)}, [(np.zeros(1, np.float32), n_examples)], context(1))


def test_memory_does_not_grow_with_the_number_of_clients() -> None:
    n_params = 100_000

    def deltas(n_clients: int) -> Iterator[tuple[NDArray[np.float32], int]]:
        for _ in range(n_clients):
            yield np.zeros(n_params, np.float32), 1

    def peak_bytes(n_clients: int) -> int:
        tracemalloc.start()
        fedavg.fold({ADAPTER: np.zeros(n_params, np.float32)}, deltas(n_clients), context(n_params))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(50) < 1.2 * peak_bytes(AT_ONCE)
