"""What may go: never what a running task may still need, oldest first, only so many at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.records import RoundRecord
from aggregator.core.retention import first_kept_update_round, retired_rounds, retired_versions


def rounds(*states: str) -> list[RoundRecord]:
    facts = {"task": "t", "version": 0, "opened_unix_s": 0.0, "deadline_unix_s": 0.0}
    return [RoundRecord(round=n, state=state, **facts) for n, state in enumerate(states, 1)]  # type: ignore[arg-type]


def test_the_newest_and_the_bundles_own_stay() -> None:
    assert retired_versions(dict.fromkeys(range(6), "promoted"), keep=2, based_on=5, limit=9) == (1, 2, 3)
    assert retired_versions(dict.fromkeys(range(6), "promoted"), keep=2, based_on=5, limit=2) == (1, 2)


def test_the_promoted_version_in_use_stays_and_all_after_it() -> None:
    found = {0: "promoted", 1: "promoted", 2: "promoted", 3: "rejected", 4: "rejected", 5: "candidate"}
    assert retired_versions(found, keep=1, based_on=5, limit=9) == (1,)  # type: ignore[arg-type]


def test_what_an_open_round_is_based_on_stays() -> None:
    assert retired_versions(dict.fromkeys(range(9), "promoted"), keep=1, based_on=3, limit=9) == (1, 2)


@given(
    found=st.dictionaries(st.integers(0, 60), st.sampled_from(["promoted", "rejected", "candidate"]), min_size=1),
    keep=st.integers(1, 20),
    based_on=st.integers(0, 60),
    limit=st.integers(1, 10),
)
def test_nothing_that_may_be_needed_goes(found: dict[int, str], keep: int, based_on: int, limit: int) -> None:
    gone = retired_versions(found, keep=keep, based_on=based_on, limit=limit)  # type: ignore[arg-type]
    assert len(gone) <= limit
    assert gone == tuple(sorted(gone))
    promoted = [version for version, status in found.items() if status == "promoted"]
    stays = {0, based_on, max(promoted, default=0), *sorted(found)[-keep:]}
    assert not stays & set(gone)


def test_open_and_closing_rounds_stay() -> None:
    assert retired_rounds(rounds("folded", "abandoned", "closing", "folded", "open"), keep=1, limit=9) == (1, 2, 4)
    assert retired_rounds(rounds("folded", "abandoned"), keep=2, limit=9) == ()
    assert retired_rounds(rounds("folded", "abandoned", "folded"), keep=1, limit=1) == (1,)


@pytest.mark.parametrize(
    ("max_rounds", "max_bytes", "first"),
    [(None, None, 0), (2, None, 4), (9, None, 0), (None, 250, 4), (None, 1, 7), (1, 10**9, 7), (None, 300, 0)],
)
def test_kept_updates_have_a_bound_in_rounds_and_in_bytes(
    max_rounds: int | None, max_bytes: int | None, first: int
) -> None:
    kept = [(2, 100), (4, 100), (7, 100)]
    assert first_kept_update_round(kept, max_rounds=max_rounds, max_bytes=max_bytes) == first
