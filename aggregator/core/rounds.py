"""The life of a round as a table.

    open ── cohort-complete | all-answered | stragglers-left | deadline-with-enough ──> closing ── folded ──> folded
     └───── deadline-with-too-few | withdrawn ──> abandoned

A round whose vectors go into a secure sum has four more states; a step that too few answered abandons the round:

    open ── adverts-closed ──> sharing ── shares-closed ──> collecting ── inputs-closed ──> consenting
         ── consents-closed ──> unmasking ── sum-opened ──> closing ── folded ──> folded

A buffer, the asynchronous twin of a round (``core.buffer``), has the states of the first table and one more way out of
``open``: ``carried-over``, to ``abandoned``, after which its updates wait on in the next buffer.

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

    from protocol.sum_round import SumStepName

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
    "cohort-complete",  # as many updates as were wanted
    "all-answered",  # the task pauses: nobody else is let in, and nobody is waited for
    "stragglers-left",  # most have answered, and the others take far longer than those did
    "deadline-with-enough",
    "deadline-with-too-few",
    "carried-over",  # of a buffer: as above, but its updates wait on in the next one
    "withdrawn",  # its task was stopped or rolled back, or paused with too few at work
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
        ("open", "all-answered"): "closing",
        ("open", "stragglers-left"): "closing",
        ("open", "deadline-with-enough"): "closing",
        ("open", "deadline-with-too-few"): "abandoned",
        ("open", "carried-over"): "abandoned",
        ("open", "withdrawn"): "abandoned",
        ("closing", "folded"): "folded",
        ("open", "adverts-closed"): "sharing",
        ("sharing", "shares-closed"): "collecting",
        ("collecting", "inputs-closed"): "consenting",
        ("consenting", "consents-closed"): "unmasking",
        ("unmasking", "sum-opened"): "closing",
        **{
            (state, event): "abandoned"
            for state in ("sharing", "collecting", "consenting", "unmasking")
            for event in ("deadline-with-too-few", "withdrawn")
        },
    }
)
FINAL_STATES: Final[frozenset[RoundState]] = frozenset({"folded", "abandoned"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundProgress:
    """How far a round is, and what it waits for.

    Attributes:
        n_waiting: devices that have work and have not answered.
        is_draining: whether its task pauses, so that nobody else is let in.
        quiet_s: for how long nobody has joined.
        patience_s: how long it waits after the last join for those who have not answered; None: until its deadline.
    """

    state: RoundState
    n_accepted: int
    cohort: int
    min_cohort: int
    n_waiting: int = 0
    is_draining: bool = False
    quiet_s: float = 0.0
    patience_s: float | None = None


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
    if progress.state != "open":
        return "folded" if progress.state == "closing" else None
    if progress.n_accepted >= progress.cohort:
        return "cohort-complete"
    has_enough = progress.n_accepted >= progress.min_cohort
    if progress.is_draining and progress.n_waiting == 0:
        return "all-answered" if has_enough else "withdrawn"
    if has_enough and _others_are_lost(progress):
        return "stragglers-left"
    if is_past_deadline:
        return "deadline-with-enough" if has_enough else "deadline-with-too-few"
    return None


def _others_are_lost(progress: RoundProgress) -> bool:
    # The median of a few quick ones says little about the rest: half of the cohort must have answered.
    is_known = 2 * progress.n_accepted >= progress.cohort
    return is_known and progress.patience_s is not None and progress.quiet_s > progress.patience_s
