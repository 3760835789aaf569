"""Choosing devices: uniform, whatever the order and however often one asks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.selection import Gathering, StratifiedGathering, allot, n_places

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


def test_a_device_of_a_tenth_of_the_weight_is_drawn_a_tenth_as_often() -> None:
    rng, n_slow, n_rounds = random.Random(1), 0, 4000
    for _ in range(n_rounds):
        gathering: Gathering[None] = Gathering(1, key=rng.randbytes(32))
        gathering.offer("quick", None)
        gathering.offer("slow", None, weight=0.1)
        n_slow += gathering.chosen()[0][0] == "slow"
    expected = n_rounds * 0.1 / 1.1
    assert abs(n_slow - expected) < 5 * expected**0.5


def test_slow_devices_fill_the_places_that_quick_ones_leave() -> None:
    gathering: Gathering[None] = Gathering(3, key=KEY)
    for device, weight in (("quick", 1.0), ("slow-1", 0.001), ("slow-2", 0.001)):
        assert gathering.offer(device, None, weight=weight) is None
    assert len(gathering) == 3


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        Gathering(1, key=KEY).offer("a", None, weight=0.0)


@given(
    st.integers(1, 20),
    st.dictionaries(st.sampled_from(["", "indoors", "outdoors", "roof"]), st.integers(1, 9), min_size=1),
)
def test_places_are_shared_out_evenly_and_all_that_can_be_filled_are(places: int, present: dict[str, int]) -> None:
    shares = allot(places, present)
    assert sum(shares.values()) == min(places, sum(present.values()))
    assert all(shares[tag] <= present[tag] for tag in present)
    short = [shares[tag] for tag in present if shares[tag] < present[tag]]  # these could have used more
    assert not short or max(shares.values()) <= min(short) + 1


def test_a_rare_tag_is_in_every_round() -> None:
    for seed in range(50):
        gathering: StratifiedGathering[None] = StratifiedGathering(4, key=random.Random(seed).randbytes(32))
        for number in range(30):
            gathering.offer(f"in-{number}", None, tag="indoors")
        gathering.offer("roof-1", None, tag="roof")
        chosen = [device for device, _ in gathering.chosen()]
        assert len(chosen) == 4
        assert "roof-1" in chosen
