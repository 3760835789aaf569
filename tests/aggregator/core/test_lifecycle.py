"""What an operator may ask of a task, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aggregator.core.lifecycle import refusal

if TYPE_CHECKING:
    from aggregator.core.gates import VersionStatus

STATES = ("open", "paused", "finished", "stopped")
STATUSES: dict[int, VersionStatus] = {0: "promoted", 1: "promoted", 2: "rejected", 3: "promoted"}


@pytest.mark.parametrize(
    ("verb", "allowed"), [("pause", {"open"}), ("resume", {"paused"}), ("stop", {"open", "paused"})]
)
def test_a_command_is_for_some_states(verb: Any, allowed: set[str]) -> None:
    for state in STATES:
        why = refusal(verb, state=state)  # type: ignore[arg-type]
        assert (why is None) == (state in allowed)
        assert why is None or f"the task is {state}" in why


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "rollback", "promote"])
def test_a_task_that_has_not_begun_takes_no_command(verb: Any) -> None:
    assert "has not begun" in str(refusal(verb, state=None, version=0))


def test_a_task_that_is_there_cannot_be_created() -> None:
    assert refusal("create", state=None) is None
    assert "is there already" in str(refusal("create", state="stopped"))


@pytest.mark.parametrize(
    ("verb", "version", "why"),
    [
        ("rollback", 0, None),
        ("rollback", 1, None),
        ("rollback", 2, "version 2 was rejected"),
        ("rollback", 3, "is the newest"),
        ("rollback", 4, "there is no version 4; the newest is 3"),
        ("promote", 2, None),
        ("promote", 1, "promoted already; to go back to it: rollback"),
        ("promote", 3, "promoted already"),
        ("promote", -1, "there is no version -1"),
    ],
)
def test_versions_that_can_be_chosen(verb: Any, version: int, why: str | None) -> None:
    for state in STATES:
        said = refusal(verb, state=state, version=version, statuses=STATUSES)  # type: ignore[arg-type]
        assert said is None if why is None else why in str(said)


def test_a_candidate_can_be_promoted_by_hand_and_is_nothing_to_go_back_to() -> None:
    statuses: dict[int, VersionStatus] = {0: "promoted", 1: "candidate"}
    assert refusal("promote", state="open", version=1, statuses=statuses) is None
    assert "newest" in str(refusal("rollback", state="open", version=1, statuses=statuses))
