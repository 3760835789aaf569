"""The life of a round as a table.

    open ── cohort-complete | deadline-with-enough ──> closing ── folded ──> folded
     └───── deadline-with-too-few ──> abandoned

A round whose vectors go into a secure sum has four more states; a step that too few answered abandons the round:

    open ── adverts-closed ──> sharing ── shares-closed ──> collecting ── inputs-closed ──> consenting
         ── consents-closed ──> unmasking ── sum-opened ──> closing ── folded ──> folded

Must live here: which event may follow which, and when one is due. Does not know about: clocks (the caller says whether
the deadline has passed), storage, devices, adapters. ``closing`` is kept durably before the fold begins, so that the
updates of a fold are fixed however often the fold itself is interrupted (docs/adr/0007).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.messages import SumStepName

__all__ = [
    "FINAL_STATES",
    "SUM_EVENTS",
    "SUM_STATES",
    "TABLE",
    "RoundEvent",
    "RoundProgress",
    "RoundState",
    "due_event",
    "fire",
]

RoundState: TypeAlias = Literal[
    "open", "sharing", "collecting", "consenting", "unmasking", "closing", "folded", "abandoned"
]
RoundEvent: TypeAlias = Literal[
    "update-accepted",
    "cohort-complete",
    "deadline-with-enough",
    "deadline-with-too-few",
    "adverts-closed",
    "shares-closed",
    "inputs-closed",
    "consents-closed",
    "sum-opened",
    "folded",
]

# In which state a round takes which message of a secure sum, and what ends that state.
SUM_STATES: Final[Mapping[SumStepName, RoundState]] = MappingProxyType(
    {
        "adverts": "open",
        "shares": "sharing",
        "inputs": "collecting",
        "consents": "consenting",
        "unmasking": "unmasking",
    }
)
SUM_EVENTS: Final[Mapping[SumStepName, RoundEvent]] = MappingProxyType(
    {
        "adverts": "adverts-closed",
        "shares": "shares-closed",
        "inputs": "inputs-closed",
        "consents": "consents-closed",
        "unmasking": "sum-opened",
    }
)

TABLE: Final[Mapping[tuple[RoundState, RoundEvent], RoundState]] = MappingProxyType(
    {
        ("open", "update-accepted"): "open",
        ("open", "cohort-complete"): "closing",
        ("open", "deadline-with-enough"): "closing",
        ("open", "deadline-with-too-few"): "abandoned",
        ("closing", "folded"): "folded",
        ("open", "adverts-closed"): "sharing",
        ("sharing", "shares-closed"): "collecting",
        ("collecting", "inputs-closed"): "consenting",
        ("consenting", "consents-closed"): "unmasking",
        ("unmasking", "sum-opened"): "closing",
        ("sharing", "deadline-with-too-few"): "abandoned",
        ("collecting", "deadline-with-too-few"): "abandoned",
        ("consenting", "deadline-with-too-few"): "abandoned",
        ("unmasking", "deadline-with-too-few"): "abandoned",
    }
)
FINAL_STATES: Final[frozenset[RoundState]] = frozenset({"folded", "abandoned"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundProgress:
    """How far a round is, and what it waits for."""

    state: RoundState
    n_accepted: int
    cohort: int
    min_cohort: int


def fire(state: RoundState, event: RoundEvent) -> RoundState:
    """Return the state after ``event``.

    Raises:
        LocalProtocolError: ``event`` is not legal in ``state`` (a bug of ours); nothing has changed.
    """
    try:
        return TABLE[state, event]
    except KeyError:
        raise LocalProtocolError(f"a round that is {state} cannot take the event {event}") from None


def due_event(progress: RoundProgress, *, is_past_deadline: bool) -> RoundEvent | None:
    """Return the event that is due now, or None; a closing round is due to be ``folded``."""
    if progress.state == "closing":
        return "folded"
    if progress.state != "open":
        return None
    if progress.n_accepted >= progress.cohort:
        return "cohort-complete"
    if not is_past_deadline:
        return None
    return "deadline-with-enough" if progress.n_accepted >= progress.min_cohort else "deadline-with-too-few"
