"""What a device did last decides its weight; nothing is held against one that could not show it."""

from __future__ import annotations

import pytest

from aggregator.core.pace import Participation, pace_weight


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (None, 1.0),
        (Participation(seconds=60.0, is_answered=True), 1.0),
        (Participation(seconds=61.0, is_answered=True), 0.1),
        (Participation(seconds=60.0, is_answered=False), 0.1),  # waited for so long, and nothing came
        (Participation(seconds=5.0, is_answered=False), 1.0),  # the round was over before one could tell
    ],
)
def test_weights_follow_what_was_seen(last: Participation | None, expected: float) -> None:
    assert pace_weight(last, within_s=60.0, exploration=0.1) == expected
