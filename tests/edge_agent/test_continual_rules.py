"""The pure rules of learning on: which examples are kept, when a stream has drifted, how it is going."""

from __future__ import annotations

import random

import pytest

from edge_agent.core.drift import DriftState, watch
from edge_agent.core.progress import progress_of
from edge_agent.core.reservoir import place_for


def test_every_arrival_is_kept_with_the_same_chance() -> None:
    rng, counts, n_runs, n, capacity = random.Random(1), [0] * 20, 4000, 20, 5
    for _ in range(n_runs):
        kept: dict[int, int] = {}
        for i in range(n):
            place = place_for(i, capacity=capacity, draw=rng.random())
            if place is not None:
                kept[place] = i
        for i in kept.values():
            counts[i] += 1
    assert [count / n_runs for count in counts] == pytest.approx([capacity / n] * n, abs=0.03)  # over 4 deviations


def test_a_full_reservoir_has_no_place_beyond_its_capacity() -> None:
    assert [place_for(i, capacity=2, draw=0.0) for i in range(4)] == [0, 1, 0, 0]
    assert place_for(9, capacity=2, draw=0.999) is None


def drifts(errors: list[float], **settings: float) -> list[int]:
    """Return after how many values each drift was noticed."""
    state, found = DriftState(), []
    chosen = {"tolerance": 0.05, "threshold": 10.0} | settings
    for i, error in enumerate(errors):
        state, is_drift = watch(state, error, warm_up=30, tolerance=chosen["tolerance"], threshold=chosen["threshold"])
        if is_drift:
            found.append(i)
    return found


def test_more_errors_are_noticed_soon_and_once() -> None:
    rng = random.Random(2)
    errors = [float(rng.random() < 0.1) for _ in range(500)] + [float(rng.random() < 0.6) for _ in range(200)]
    (at,) = drifts(errors)
    assert 500 < at < 560


def test_a_steady_stream_raises_no_alarm() -> None:
    rng = random.Random(3)
    assert drifts([float(rng.random() < 0.3) for _ in range(5000)], threshold=25.0) == []


def test_fewer_errors_are_no_drift() -> None:
    assert drifts([1.0] * 100 + [0.0] * 300) == []


def test_nothing_is_said_while_it_warms_up() -> None:
    assert drifts([0.0] * 5 + [1.0] * 20, threshold=0.1) == []


def test_the_figures_of_a_worked_example() -> None:
    # Stretch 0 falls from 0.9 by way of 0.7 to 0.6, stretch 1 from 0.8 to 0.9.
    found = progress_of([[0.9], [0.7, 0.8], [0.6, 0.9, 1.0]])
    assert found is not None
    assert found.average_accuracy == pytest.approx((0.6 + 0.9 + 1.0) / 3)
    assert found.forgetting == pytest.approx(((0.9 - 0.6) + (0.8 - 0.9)) / 2)
    assert found.backward_transfer == pytest.approx(((0.6 - 0.9) + (0.9 - 0.8)) / 2)


def test_one_stretch_has_nothing_to_forget_and_none_has_no_figures() -> None:
    found = progress_of([[0.5]])
    assert found is not None
    assert (found.average_accuracy, found.forgetting, found.backward_transfer) == (0.5, None, None)
    assert progress_of([]) is None
