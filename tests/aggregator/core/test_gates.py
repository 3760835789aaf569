"""Which versions pass a gate, and what each version is."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.core.gates import judge, promoted_before, published, status_of
from aggregator.core.records import Evaluation, SetScore, Standing, VersionRecord


def measured(version: int, **sets: tuple[float, float]) -> Evaluation:
    """Sets of 100 examples, each with accuracy and loss."""
    scores = {name: SetScore(accuracy=a, loss=loss, n_examples=100) for name, (a, loss) in sets.items()}
    return Evaluation(task="t", version=version, sets=scores, wall_s=1.0)


def version(number: int, round_: int | None = 1) -> VersionRecord:
    return VersionRecord(task="t", version=number, round=round_, state={}, n_updates=1, created_unix_s=0.0)


def standing(number: int, status: Any) -> Standing:
    return Standing(task="t", version=number, status=status, why="", decided_unix_s=0.0)


OLD = measured(1, a=(0.8, 0.5), b=(0.6, 0.9))


@pytest.mark.parametrize(
    ("new", "options", "passes"),
    [
        ({"a": (0.8, 0.5), "b": (0.6, 0.9)}, {"metric": "accuracy", "margin": 0.0}, True),
        ({"a": (0.7, 0.5), "b": (0.7, 0.9)}, {"metric": "accuracy", "margin": 0.0}, True),  # pooled: the same
        ({"a": (0.7, 0.5), "b": (0.6, 0.9)}, {"metric": "accuracy", "margin": 0.04}, False),  # pooled: 5 points
        ({"a": (0.7, 0.5), "b": (0.6, 0.9)}, {"metric": "accuracy", "margin": 0.06}, True),
        ({"a": (0.7, 0.5), "b": (0.7, 0.9)}, {"metric": "accuracy", "margin": 0.05, "sets": ("a",)}, False),
        ({"a": (0.1, 0.5), "b": (0.6, 0.9)}, {"metric": "accuracy", "margin": 0.0, "sets": ("b",)}, True),
        ({"a": (0.9, 0.6), "b": (0.9, 0.9)}, {"metric": "loss", "margin": 0.0}, False),
        ({"a": (0.1, 0.4), "b": (0.1, 0.9)}, {"metric": "loss", "margin": 0.0}, True),
        ({"a": (0.9, 0.1)}, {"metric": "accuracy", "margin": 0.0, "sets": ("a", "b")}, False),  # b was not measured
    ],
)
def test_a_version_passes_if_it_is_not_worse_beyond_the_margin(
    new: dict[str, tuple[float, float]], options: dict[str, Any], *, passes: bool
) -> None:
    good, why = judge(measured(2, **new), OLD, **options)
    assert good is passes
    assert "version 1" in why


def test_the_reason_has_the_figures() -> None:
    _, why = judge(measured(2, a=(0.7, 0.5)), measured(1, a=(0.8, 0.5)), metric="accuracy", margin=0.01, sets=("a",))
    assert why == "accuracy on a 0.7 after 0.8, beyond 0.01 (version 1)"


@pytest.mark.parametrize(
    ("number", "round_", "has_gate", "expected"),
    [(3, 3, True, "candidate"), (3, 3, False, "promoted"), (2, 2, True, "promoted"), (3, None, True, "promoted")],
)
def test_only_the_newest_fold_behind_a_gate_waits(
    number: int, round_: int | None, expected: str, *, has_gate: bool
) -> None:
    assert status_of(version(number, round_), newest=3, standings={}, has_gate=has_gate) == expected


def test_a_decision_is_what_a_version_is() -> None:
    known = {3: standing(3, "rejected")}
    assert status_of(version(3), newest=3, standings=known, has_gate=False) == "rejected"


def test_the_predecessor_is_the_newest_promoted_one() -> None:
    versions = [version(0, None), version(1), version(2), version(3)]
    assert promoted_before(versions, {2: standing(2, "rejected")}, before=3).version == 1
    rejected = {number: standing(number, "rejected") for number in (1, 2)}
    assert promoted_before(versions, rejected, before=3).version == 0


@pytest.mark.parametrize(
    ("known", "opened_on", "expected"),
    [
        ({0: "promoted", 1: "candidate"}, 0, (0, True)),
        ({0: "promoted", 1: "promoted"}, 0, (1, False)),
        ({0: "promoted", 1: "rejected", 2: "rejected"}, 0, (0, False)),
        ({0: "promoted", 1: "candidate"}, 1, (1, False)),  # the gate came when devices had version 1
    ],
)
def test_devices_are_given_the_newest_promoted_version(
    known: dict[int, Any], opened_on: int, expected: tuple[int, bool]
) -> None:
    assert published(known, opened_on=opened_on) == expected
