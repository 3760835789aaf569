"""Who is at work and how long answers take."""

from __future__ import annotations

import pytest

from aggregator.core.attendance import Attendance, patience_s


def test_those_who_answered_are_not_waited_for() -> None:
    attendance = Attendance(now_s=0.0)
    for device in "abc":
        attendance.join(device, 1.0)
    attendance.answer("b", 4.0)
    assert (attendance.n_waiting, attendance.median_s) == (2, 3.0)


def test_the_median_is_the_lower_middle_of_the_answers() -> None:
    attendance = Attendance(now_s=0.0, took_s=[9.0, 1.0])
    assert attendance.median_s == 1.0
    attendance.join("a", 0.0)
    attendance.answer("a", 5.0)
    assert attendance.median_s == 5.0


def test_a_repeated_join_and_a_strangers_answer_change_nothing() -> None:
    attendance = Attendance(now_s=0.0)
    attendance.join("a", 1.0)
    attendance.join("a", 50.0)
    attendance.answer("z", 60.0)
    assert attendance.quiet_s(61.0) == 60.0
    assert (attendance.n_waiting, attendance.median_s) == (1, None)


def test_a_restart_gives_everybody_the_whole_patience_again() -> None:
    attendance = Attendance(now_s=0.0, waiting=["a"])
    attendance.restart(100.0)
    assert attendance.quiet_s(100.0) == 0.0
    attendance.answer("a", 103.0)
    assert attendance.median_s == 3.0


@pytest.mark.parametrize(
    ("median_s", "factor", "expected"),
    [(None, 4.0, None), (20.0, 0.0, None), (20.0, 4.0, 80.0), (2.0, 4.0, 45.0)],
)
def test_patience_is_a_multiple_of_the_median_and_has_a_floor(
    median_s: float | None, factor: float, expected: float | None
) -> None:
    assert patience_s(median_s, factor=factor, least_s=45.0) == expected
