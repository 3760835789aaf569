"""The steps of a secure sum in the session's table: take a step, send it until it is receipted, wait for what follows.

    training   trained for a sum       -> summing    take the step adverts
    summing    taken                   -> waiting    send its message
    summing    failed                  -> idle       the sum is over for this device: others recover it as a drop-out
    waiting    receipt                 -> waiting    ask again much later; idle after the last step or a refusal
    waiting    what follows            -> summing    take the next step
    waiting    given up                -> idle
    summing, waiting  a later round is announced, or the task ended -> idle or joining

Laws: those of ``session``; a step follows from what the service sent and never from time. No IO.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from protocol.sum_round import SumNextName, SumStepName  # noqa: TC001 - structure() resolves the annotations

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FOLLOWS", "LAST", "Followed", "GivenUp", "SendStep", "StepFailed", "StepTaken", "TakeStep", "TrainedForSum"]

# What the service sends after a step, and the step that it leads to.
FOLLOWS: Final[Mapping[SumStepName, tuple[SumNextName, SumStepName]]] = MappingProxyType(
    {
        "adverts": ("roster", "shares"),
        "shares": ("delivery", "inputs"),
        "inputs": ("survivors", "consents"),
        "consents": ("agreement", "unmasking"),
    }
)
LAST: Final[SumStepName] = "unmasking"


@dataclass(frozen=True, slots=True)
class TrainedForSum:
    """The trainer is done and its delta is kept for the sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTaken:
    """A step's state and message are stored."""

    update_id: bytes


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step was refused by our own checks, or its trainer failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What follows a step is stored."""

    task: str
    round: int
    step: SumNextName


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Nothing came for too long."""


@dataclass(frozen=True, slots=True)
class TakeStep:
    """Start a trainer for this step, unless it was taken."""

    step: SumStepName


@dataclass(frozen=True, slots=True)
class SendStep:
    """Publish the stored message until it is receipted; after that rarely, until something follows."""

    update_id: bytes
    is_receipted: bool = False
