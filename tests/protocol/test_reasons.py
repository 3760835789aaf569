from __future__ import annotations

from typing import get_args

from protocol.reasons import REASONS, Reason


def test_the_reasons_are_the_literals_choices() -> None:
    assert get_args(Reason) == REASONS
    assert len(set(REASONS)) == len(REASONS)
