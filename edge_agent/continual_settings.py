"""``[continual]`` of a device: when its stream counts as changed, and what it trains for itself alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import Range

__all__ = ["ContinualSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinualSettings:
    """``[continual]``: needs ``[store]``. What rounds do against forgetting is the task's (``plan.continual``)."""

    drift_tolerance: Annotated[float, Range(0.0, 1.0)] = 0.05  # by so much errors may lie above their mean for nothing
    drift_threshold: Annotated[float, Range(0.1, 1e6)] = 10.0  # errors in excess until the stream counts as changed
    drift_warm_up: Annotated[int, Range(1, 10**6)] = 50  # labelled examples before the first verdict
    exam_s: Annotated[float, Range(1.0, 1e6)] = 600.0  # at least between two exams
    max_exam: Annotated[int, Range(10, 10_000)] = 200  # newest examples of each stretch's exam

    # A personal part: trained here on top of the global adapter, never sent, served if it does better in the exam.
    personal: bool = False
    personal_min_examples: Annotated[int, Range(8, 10**6)] = (
        50  # labelled ones since the last time; drift needs no more
    )
    personal_epochs: Annotated[int, Range(1, 100)] = 3
    personal_learning_rate: Annotated[float, Range(1e-9, 10.0)] = 1e-3
    personal_deadline_s: Annotated[float, Range(1.0, 1e6)] = 3600.0
