"""Folding in general: the order is canonical and what comes out is checked."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.folding import FoldContext, Strategy, canonical_order, fold_checked
from aggregator.core.records import UpdateRecord
from protocol.errors import LocalProtocolError
from protocol.layout import Layout, TensorSlot

if TYPE_CHECKING:
    from aggregator.core.folding import State

LAYOUT = Layout(tensors=(TensorSlot(name="w", shape=(3,), offset=0, role="head"),))
CONTEXT = FoldContext(layout=LAYOUT, round=1, version=0)
STATE: State = {"adapter": np.zeros(3, np.float32)}
UPDATE = UpdateRecord(
    update_id=bytes(16),
    task="t",
    round=1,
    device="a",
    blob="0" * 64,
    n_bytes=1,
    payload_bytes=1,
    n_examples=1,
    loss=0.0,
    train_s=0.0,
)


@given(st.permutations(["pi-1", "pi-10", "pi-2", "jetson", "a"]))
def test_the_order_of_a_fold_does_not_depend_on_the_order_of_arrival(devices: list[str]) -> None:
    updates = [dataclasses.replace(UPDATE, device=device) for device in devices]
    assert [one.device for one in canonical_order(updates)] == ["a", "jetson", "pi-1", "pi-10", "pi-2"]


def strategy_returning(state: State) -> Strategy:
    return Strategy(init=lambda _layout, _config: STATE, fold=lambda _state, _deltas, _context: state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"adapter": np.zeros(3, np.float64)},
        {"adapter": np.zeros(4, np.float32)},
        {"adapter": np.array([0, np.nan, 0], np.float32)},
        {"adapter": np.array([0, np.inf, 0], np.float32)},
        {"momentum": np.zeros(3, np.float32)},
    ],
)
def test_a_fold_that_returns_something_else_than_a_state_is_our_bug(wrong: State) -> None:
    with pytest.raises(LocalProtocolError):
        fold_checked(strategy_returning(wrong), STATE, [], CONTEXT)
