"""The round's table: every legal step, every illegal one, and when an event is due."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from aggregator.core.rounds import FINAL_STATES, TABLE, RoundEvent, RoundProgress, RoundState, due_event, fire
from protocol.errors import LocalProtocolError

STATES = get_args(RoundState)
EVENTS = get_args(RoundEvent)


def progress(state: RoundState = "open", n_accepted: int = 0, **changes: Any) -> RoundProgress:
    return RoundProgress(state=state, n_accepted=n_accepted, cohort=4, min_cohort=2, **changes)


@pytest.mark.parametrize(("step", "after"), TABLE.items())
def test_a_legal_event_leads_to_the_state_in_the_table(step: tuple[RoundState, RoundEvent], after: RoundState) -> None:
    assert fire(*step) == after


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", EVENTS)
def test_an_event_that_is_not_in_the_table_is_an_error(state: RoundState, event: RoundEvent) -> None:
    if (state, event) in TABLE:
        return
    with pytest.raises(LocalProtocolError, match=f"{state} cannot take the event {event}"):
        fire(state, event)


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_nothing_leaves_a_final_state(state: RoundState) -> None:
    assert not [step for step in TABLE if step[0] == state]
    assert due_event(progress(state, 4), is_past_deadline=True) is None


def test_every_state_can_be_reached_from_open() -> None:
    reached = {"open"}
    for _ in STATES:
        reached |= {after for (before, _), after in TABLE.items() if before in reached}
    assert reached == set(STATES)


@pytest.mark.parametrize(
    ("n_accepted", "is_past_deadline", "expected"),
    [
        (0, False, None),
        (3, False, None),
        (4, False, "cohort-complete"),
        (5, True, "cohort-complete"),
        (3, True, "deadline-with-enough"),
        (2, True, "deadline-with-enough"),
        (1, True, "deadline-with-too-few"),
        (0, True, "deadline-with-too-few"),
    ],
)
def test_an_open_round_closes_when_it_is_full_or_its_time_is_up(
    n_accepted: int, *, is_past_deadline: bool, expected: RoundEvent | None
) -> None:
    assert due_event(progress("open", n_accepted), is_past_deadline=is_past_deadline) == expected


@pytest.mark.parametrize(
    ("n_accepted", "quiet_s", "patience_s", "expected"),
    [
        (2, 11.0, 10.0, "stragglers-left"),
        (3, 11.0, 10.0, "stragglers-left"),
        (2, 10.0, 10.0, None),  # not longer than the patience
        (2, 1e9, None, None),  # nobody has answered yet, or the operator waits for all
        (1, 1e9, 10.0, None),  # fewer than half of the cohort, and than min_cohort
        (4, 0.0, 10.0, "cohort-complete"),
    ],
)
def test_an_open_round_leaves_its_stragglers_when_its_patience_is_over(
    n_accepted: int, quiet_s: float, patience_s: float | None, expected: RoundEvent | None
) -> None:
    now = progress("open", n_accepted, n_waiting=4 - n_accepted, quiet_s=quiet_s, patience_s=patience_s)
    assert due_event(now, is_past_deadline=False) == expected


@pytest.mark.parametrize(
    ("n_accepted", "n_waiting", "expected"),
    [(2, 0, "all-answered"), (3, 0, "all-answered"), (1, 0, "withdrawn"), (0, 0, "withdrawn"), (2, 1, None)],
)
def test_a_round_of_a_pausing_task_ends_when_nobody_is_at_work(
    n_accepted: int, n_waiting: int, expected: RoundEvent | None
) -> None:
    now = progress("open", n_accepted, n_waiting=n_waiting, is_draining=True)
    assert due_event(now, is_past_deadline=False) == expected


def test_a_closing_round_is_due_to_be_folded_whatever_the_time() -> None:
    assert due_event(progress("closing", 2), is_past_deadline=False) == "folded"


def test_every_due_event_is_legal() -> None:
    for state in STATES:
        for n_accepted in range(6):
            for late in (False, True):
                for draining in (False, True):
                    for patience_s in (None, 1.0):
                        now = progress(state, n_accepted, is_draining=draining, quiet_s=2.0, patience_s=patience_s)
                        event = due_event(now, is_past_deadline=late)
                        assert event is None or (state, event) in TABLE
