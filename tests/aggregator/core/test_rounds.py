"""The round's table: every legal step, every illegal one, and when an event is due."""

from __future__ import annotations

from typing import get_args

import pytest

from aggregator.core.rounds import FINAL_STATES, TABLE, RoundEvent, RoundProgress, RoundState, due_event, fire
from protocol.errors import LocalProtocolError

STATES = get_args(RoundState)
EVENTS = get_args(RoundEvent)


def progress(state: RoundState = "open", n_accepted: int = 0) -> RoundProgress:
    return RoundProgress(state=state, n_accepted=n_accepted, cohort=4, min_cohort=2)


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


def test_a_closing_round_is_due_to_be_folded_whatever_the_time() -> None:
    assert due_event(progress("closing", 2), is_past_deadline=False) == "folded"


def test_every_due_event_is_legal() -> None:
    for state in STATES:
        for n_accepted in range(6):
            for late in (False, True):
                event = due_event(progress(state, n_accepted), is_past_deadline=late)
                assert event is None or (state, event) in TABLE
