"""A gate's history is judged again, and each kind of wrong is found; `make test-kill GATE=1` does it to a real one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deploy.simulate.verdicts import Verdicts, check_verdicts


def version(number: int, status: str, *, origin: int | None = None, loss: float | None = None) -> dict[str, Any]:
    is_fold = number > 0 and origin is None
    round_ = number if is_fold else None
    return {"version": number, "status": status, "round": round_, "origin": origin, "loss": loss}


# Synchronous: 2 is worse than 1 and 3 its copy. Asynchronous: 5 is worse than 4, and 6 follows 4 at once.
HISTORY = [
    version(0, "promoted", loss=0.70),
    version(1, "promoted", loss=0.60),
    version(2, "rejected", loss=0.65),
    version(3, "promoted", origin=1, loss=0.60),
    version(4, "promoted", loss=0.55),
    version(5, "rejected", loss=0.58),
    version(6, "promoted", loss=0.55),
    version(7, "candidate"),
]
LOSSES = {0: 0.70, 1: 0.60, 2: 0.65, 3: 0.60, 4: 0.55, 5: 0.58, 6: 0.55, 7: 0.10}
GIVEN = {0, 1, 3, 4, 6}
GOOD = Verdicts(n_promoted=3, n_rejected=2, n_wrong_figures=0, n_wrong_verdicts=0, n_given_refused=0)


def test_a_history_that_the_figures_explain_is_good() -> None:
    assert check_verdicts(HISTORY, LOSSES, given=GIVEN) == GOOD
    assert GOOD.is_good


@pytest.mark.parametrize(
    ("changed", "losses", "given", "found"),
    [
        ({}, {4: 0.50}, GIVEN, {"n_wrong_figures": 1, "n_wrong_verdicts": 1}),  # 6 is worse than that
        ({}, {5: 0.54}, GIVEN, {"n_wrong_figures": 1, "n_wrong_verdicts": 1}),
        ({3: {"origin": 0}}, {}, GIVEN, {"n_wrong_verdicts": 1}),
        ({3: {"origin": 2}}, {}, GIVEN, {"n_wrong_verdicts": 1}),
        ({}, {}, GIVEN | {5}, {"n_given_refused": 1}),
        ({2: {"status": "promoted"}}, {}, GIVEN, {"n_promoted": 4, "n_rejected": 1, "n_wrong_verdicts": 2}),
    ],
)
def test_each_kind_of_wrong_is_found(
    changed: dict[int, dict[str, Any]], losses: dict[int, float], given: set[int], found: dict[str, int]
) -> None:
    history = [one | changed.get(one["version"], {}) for one in HISTORY]
    seen = check_verdicts(history, LOSSES | losses, given=given)
    assert seen == replace(GOOD, **found)
    assert not seen.is_good
