"""``[[task]] metrics``: which figures of how a device learns a task asks for, and with what they do not go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.fields import FieldError

if TYPE_CHECKING:
    from aggregator.config import TaskSettings

__all__ = ["check_metrics"]


def check_metrics(task: TaskSettings) -> None:
    """Return if the task may ask for its metrics.

    Raises:
        FieldError: it promises to hide what they tell (the user's fault).
    """
    if task.metrics is None:
        return
    if task.privacy.is_secure_sum:
        raise FieldError("metrics: with a secure sum the service reads nothing of a single device")
    if task.privacy.dp is not None or task.plan.dp is not None:
        raise FieldError("metrics: they are figures of single devices without noise, and the task promises privacy")
    if len(set(task.metrics)) < len(task.metrics):
        raise FieldError("metrics: one is named twice")
