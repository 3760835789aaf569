"""Choosing devices: uniform, whatever the order and however often one asks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.selection import Gathering, n_places

KEY = bytes(range(32))


def chosen(devices: list[str], places: int, key: bytes = KEY) -> list[str]:
    gathering: Gathering[int] = Gathering(places, key=key)
    for number, device in enumerate(devices):
        gathering.offer(device, number)
    return [device for device, _ in gathering.chosen()]


@pytest.mark.parametrize(
    ("cohort", "over_select", "expected"), [(4, 1.0, 4), (10, 1.3, 13), (10, 1.1, 11), (4, 1.3, 6), (1, 1.01, 2)]
)
def test_places_are_the_cohort_times_the_factor_rounded_up(cohort: int, over_select: float, expected: int) -> None:
    assert n_places(cohort, over_select) == expected


@given(st.permutations([f"d{i}" for i in range(12)]), st.integers(1, 12))
def test_the_choice_does_not_depend_on_the_order(order: list[str], places: int) -> None:
    assert chosen(order, places) == chosen(sorted(order), places)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=8), st.integers(1, 4))
def test_asking_again_gains_nothing(asked: list[str], places: int) -> None:
    assert chosen(asked, places) == chosen(sorted(set(asked)), places)


def test_whoever_is_let_go_is_said_once_and_the_rest_is_chosen() -> None:
    gathering: Gathering[str] = Gathering(3, key=KEY)
    gone = [gathering.offer(f"d{i}", f"said {i}") for i in range(10)]
    out = {one[0] for one in gone if one is not None}
    kept = dict(gathering.chosen())
    assert len(out) == 7
    assert out | kept.keys() == {f"d{i}" for i in range(10)}
    assert all(said == f"said {device[1:]}" for device, said in kept.items())


def test_every_device_is_chosen_equally_often() -> None:
    rng, counts = random.Random(0), dict.fromkeys("abcdefgh", 0)
    n_rounds = 4000
    for _ in range(n_rounds):
        for device in chosen(list(counts), 3, rng.randbytes(32)):
            counts[device] += 1
    expected = n_rounds * 3 / 8
    sigma = (n_rounds * 3 / 8 * 5 / 8) ** 0.5
    assert all(abs(count - expected) < 5 * sigma for count in counts.values())


@pytest.mark.parametrize(("places", "key"), [(0, KEY), (1, b"short")])
def test_no_place_and_a_short_key_are_refused(places: int, key: bytes) -> None:
    with pytest.raises(ValueError, match="expected at least one place"):
        Gathering(places, key=key)
