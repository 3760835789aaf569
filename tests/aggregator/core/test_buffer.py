"""The buffer's rules: when it is folded, what is too old, who holds a slot, who waits for one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.buffer import (
    HEARD_S,
    BufferProgress,
    Slots,
    WaitingRoom,
    due_buffer_event,
    oldest_version,
    staleness_of,
)
from aggregator.core.rounds import TABLE

if TYPE_CHECKING:
    from aggregator.core.rounds import RoundEvent, RoundState


def anybody(_device: str) -> bool:
    return True


def progress(
    n_waiting: int, *, n_working: int = 3, is_draining: bool = False, state: RoundState = "open"
) -> BufferProgress:
    return BufferProgress(
        state=state, n_waiting=n_waiting, size=4, least=2, n_working=n_working, is_draining=is_draining
    )


@pytest.mark.parametrize(
    ("at", "late", "expected"),
    [
        (progress(3), False, None),
        (progress(4), False, "cohort-complete"),
        (progress(2), True, "deadline-with-enough"),
        (progress(1), True, "carried-over"),
        (progress(5, is_draining=True), False, None),  # those at work are waited for
        (progress(5, is_draining=True, n_working=0), False, "all-answered"),
        (progress(2, is_draining=True), True, "all-answered"),
        (progress(1, is_draining=True, n_working=0), False, "withdrawn"),
        (progress(0, state="closing"), False, "folded"),
        (progress(9, state="folded"), True, None),
    ],
)  # fmt: skip
def test_a_buffer_is_folded_when_it_is_full_or_its_time_is_over(
    at: BufferProgress, expected: RoundEvent | None, *, late: bool
) -> None:
    assert due_buffer_event(at, is_past_deadline=late) == expected
    assert expected is None or (at.state, expected) in TABLE


def test_nothing_from_before_a_restored_version_is_welcome() -> None:
    assert oldest_version(9, restored=0, max_staleness=20) == 0
    assert oldest_version(9, restored=0, max_staleness=2) == 7
    assert oldest_version(9, restored=8, max_staleness=2) == 8


def test_versions_that_a_gate_refused_make_no_update_older() -> None:
    rejected = {3, 6, 7}
    assert staleness_of(5, folded_on=8, rejected=rejected) == 1
    assert staleness_of(2, folded_on=2, rejected=rejected) == 0
    for max_staleness in range(5):
        oldest = oldest_version(8, restored=0, max_staleness=max_staleness, rejected=rejected)
        welcome = {one for one in range(9) if one not in rejected and one >= oldest}
        young = {one for one in range(9) if staleness_of(one, folded_on=8, rejected=rejected) <= max_staleness}
        assert welcome == young - rejected


def test_nothing_is_folded_while_a_version_waits_for_its_verdict() -> None:
    for at in (progress(9), progress(9, is_draining=True, n_working=0), progress(0)):
        assert due_buffer_event(dataclasses.replace(at, has_candidate=True), is_past_deadline=True) is None
    closing = dataclasses.replace(progress(2, state="closing"), has_candidate=True)
    assert due_buffer_event(closing, is_past_deadline=False) == "folded"


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.floats(0, 5)), max_size=40),
)
def test_there_are_never_more_workers_than_slots_and_none_keeps_one_for_ever(
    concurrency: int, acts: list[tuple[str, bool, float]]
) -> None:
    slots, now_s, held = Slots(concurrency, slot_s=10.0, now_s=0.0), 0.0, dict[str, float]()
    for device, takes, passed_s in acts:
        now_s += passed_s
        gone = [one for one, since_s in held.items() if now_s - since_s >= 10.0]
        assert sorted(slots.expire(now_s)) == sorted(gone)
        for one in gone:
            del held[one]
        if takes:
            has_one = device in held or len(held) < concurrency
            assert slots.take(device, now_s) is has_one
            held |= {device: now_s} if has_one else {}
        else:
            slots.give_back(device)
            held.pop(device, None)
        assert slots.n_working == len(held) <= concurrency


def test_after_a_restart_workers_keep_their_slots_with_the_whole_time() -> None:
    slots = Slots(1, slot_s=10.0, working=["a", "b"], now_s=5.0)
    assert not slots.has_room
    assert slots.take("a", 6.0)
    assert not slots.take("c", 6.0)
    slots.restart(100.0)
    assert slots.expire(109.0) == []
    assert sorted(slots.expire(110.0)) == ["a", "b"]
    assert slots.take("c", 110.0)


def test_who_waits_is_served_in_order_and_keeps_its_place_by_calling_again() -> None:
    room: WaitingRoom[str] = WaitingRoom(2)
    assert room.offer("a", "first", 0.0)
    assert room.offer("b", "second", 1.0)
    assert not room.offer("c", "third", 2.0)
    assert room.offer("a", "first again", 3.0)
    served = [room.next(4.0, anybody) for _ in range(3)]
    assert served == ["first again", "second", None]


def test_who_may_not_work_yet_waits_on_in_its_place() -> None:
    room: WaitingRoom[str] = WaitingRoom(2)
    room.offer("a", "a", 0.0)
    room.offer("b", "b", 0.0)
    assert room.next(1.0, lambda device: device != "a") == "b"
    assert room.next(1.0, lambda device: device != "a") is None
    assert room.next(1.0, anybody) == "a"


def test_who_has_stopped_calling_is_passed_over() -> None:
    room: WaitingRoom[str] = WaitingRoom(3)
    room.offer("gone", "gone", 0.0)
    room.offer("there", "there", 10.0)
    assert room.next(HEARD_S + 5.0, anybody) == "there"
    room.offer("a", "a", 0.0)
    room.clear()
    assert room.next(0.0, anybody) is None
