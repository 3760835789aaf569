"""The owner's rules, each by itself: what holds, what lets go, and what is said about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.eligibility import DailyUse, Hold, Readings, holds_of, used_by
from edge_agent.rules_settings import RulesSettings
from protocol.fields import FieldError, structure

FINE = Readings(
    day=100,
    minute=720,
    on_mains=True,
    battery_fraction=0.9,
    celsius=50.0,
    busy_fraction=0.1,
    is_metered=False,
    free_disk_bytes=10**10,
    free_memory_bytes=10**9,
)
ALL = RulesSettings(
    min_battery_fraction=0.5,
    max_celsius=70.0,
    max_busy_fraction=0.3,
    needs_unmetered=True,
    min_free_disk_mb=500,
    min_free_memory_mb=200,
    quiet_hours=("22:00-06:00", "13:00-14:00"),
    max_minutes_a_day=60,
    max_joules_a_day=9000,
    training_watts=3,
    max_sent_mb_a_day=10,
)


def held(rules: RulesSettings = ALL, use: DailyUse | None = None, **changed: Any) -> list[tuple[str, str]]:
    found = holds_of(rules, replace(FINE, **changed), use or DailyUse(day=100))
    return [(one.rule, one.stops) for one in found]


def test_a_device_that_is_fine_may_do_everything() -> None:
    assert held() == []


def test_without_rules_nothing_holds_whatever_is_read() -> None:
    nothing = Readings(day=0, minute=0)
    assert holds_of(RulesSettings(), nothing, DailyUse(train_s=1e9, sent_bytes=10**15)) == ()


@pytest.mark.parametrize(
    ("changed", "rule", "stops"),
    [
        ({"on_mains": False, "battery_fraction": 0.5}, "battery", "training"),
        ({"on_mains": None, "battery_fraction": None}, "battery", "training"),
        ({"celsius": 70.1}, "temperature", "training"),
        ({"busy_fraction": 0.31}, "busy", "training"),
        ({"is_metered": True}, "network", "sending"),
        ({"free_disk_bytes": 499_999_999}, "disk", "running"),
        ({"free_memory_bytes": 1}, "memory", "running"),
        ({"minute": 22 * 60}, "quiet-hours", "training"),
        ({"minute": 0}, "quiet-hours", "training"),
        ({"minute": 6 * 60 - 1}, "quiet-hours", "training"),
        ({"minute": 13 * 60}, "quiet-hours", "training"),
    ],
)
def test_one_reading_out_of_bounds_is_one_hold(changed: dict[str, Any], rule: str, stops: str) -> None:
    assert held(**changed) == [(rule, stops)]


@pytest.mark.parametrize(
    "changed",
    [
        {"on_mains": False, "battery_fraction": 0.51},
        {"celsius": 70.0},
        {"minute": 6 * 60},
        {"minute": 14 * 60},
        {"minute": 22 * 60 - 1},
    ],
)
def test_a_reading_at_its_bound_lets_go(changed: dict[str, Any]) -> None:
    assert held(**changed) == []


@pytest.mark.parametrize(
    ("reading", "rule"),
    [
        ("celsius", "temperature"),
        ("busy_fraction", "busy"),
        ("is_metered", "network"),
        ("free_disk_bytes", "disk"),
        ("free_memory_bytes", "memory"),
    ],
)
def test_a_rule_without_its_sensor_holds(reading: str, rule: str) -> None:
    assert [one for one, _ in held(**{reading: None})] == [rule]


def test_once_too_hot_it_waits_until_it_has_cooled() -> None:
    hot = (Hold(rule="temperature", what=""),)
    for rules, cool in ((ALL, 65.0), (replace(ALL, resume_celsius=55.0), 55.0)):
        still = holds_of(rules, replace(FINE, celsius=cool + 0.1), DailyUse(), before=hot)
        assert [one.rule for one in still] == ["temperature"]
        assert holds_of(rules, replace(FINE, celsius=cool), DailyUse(), before=hot) == ()
        assert holds_of(rules, replace(FINE, celsius=cool + 0.1), DailyUse()) == ()


def test_a_days_budget_is_spent_and_the_next_day_is_new() -> None:
    assert held(use=DailyUse(day=100, train_s=3599)) == [("joules", "training")]
    assert [rule for rule, _ in held(use=DailyUse(day=100, train_s=3600))] == ["minutes", "joules"]
    assert held(use=DailyUse(day=100, sent_bytes=10_000_000)) == [("sent-bytes", "sending")]
    assert held(use=DailyUse(day=99, train_s=9e4, sent_bytes=10**9)) == []


def test_a_clock_that_is_set_back_gives_no_second_budget() -> None:
    spent = DailyUse(day=101, train_s=3600)
    assert used_by(spent, 100, train_s=5.0) == DailyUse(day=101, train_s=3605.0)
    assert [rule for rule, _ in held(use=spent)] == ["minutes", "joules"]


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 100), st.integers(0, 1000)), max_size=20))
def test_use_only_grows_within_a_day(pieces: list[tuple[int, float, int]]) -> None:
    use = DailyUse()
    for day, train_s, sent_bytes in pieces:
        after = used_by(use, day, train_s=train_s, sent_bytes=sent_bytes)
        assert after.day >= use.day
        if after.day == use.day:
            assert after.train_s >= use.train_s
            assert after.sent_bytes >= use.sent_bytes
        use = after


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_joules_a_day": 5},
        {"max_celsius": 60, "resume_celsius": 61},
        {"resume_celsius": 50},
        {"quiet_hours": ["25:00-06:00"]},
        {"quiet_hours": ["6-22"]},
        {"min_battery_fraction": 50},
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        structure(RulesSettings, wrong, lenient_floats=True)
