"""``[task.asynchronous]``: how a task with ``mode = "async"`` fills its buffers. The rules are in ``core.buffer``.

Must live here: what does not go with that mode, and why, in one line for the user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from aggregator.core.buffer import oldest_version
from aggregator.core.strategy_choice import options_of
from protocol.fields import FieldError, Range

if TYPE_CHECKING:
    from collections.abc import Collection

    from aggregator.config import TaskSettings

__all__ = ["AsyncSettings", "async_of", "check_mode", "oldest_welcome"]

STRATEGY: Final = "fedbuff"


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncSettings:
    """How many devices work at a time, and for how long each may.

    The buffer's size is the task's ``cohort``, and ``min_cohort`` what makes a version at ``deadline_s``. How stale an
    update may be and what it then weighs is the strategy's: ``strategy_options.max_staleness`` and ``.staleness``.

    Attributes:
        concurrency: devices that work at the same time; None: twice the cohort. Papaya (Huba et al. 2022,
            arXiv:2111.04877) runs with ten times the buffer's size; the more, the staler.
        slot_s: after so long without an update a device's place goes to another; what it sends later is still taken
            unless it is too stale. Longer than the slowest device trains.
    """

    concurrency: Annotated[int, Range(1, 10**5)] | None = None
    slot_s: Annotated[float, Range(1.0, 1e7)] = 3600.0


def async_of(task: TaskSettings) -> AsyncSettings | None:
    """Return a task's settings of its buffers, its concurrency chosen; None for a task that lives by rounds."""
    if task.mode != "async":
        return None
    given = task.asynchronous or AsyncSettings()
    return AsyncSettings(concurrency=given.concurrency or 2 * task.cohort, slot_s=given.slot_s)


def oldest_welcome(
    task: TaskSettings, *, version: int, restored: int = 0, rejected: Collection[int] = ()
) -> int | None:
    """Return the oldest version on which an update may be based while devices have ``version``; None in rounds."""
    if task.mode != "async":
        return None
    options = options_of(task.strategy, task.strategy_options)
    return oldest_version(version, restored=restored, max_staleness=options.max_staleness, rejected=rejected)


def check_mode(task: TaskSettings) -> None:
    """Return if the task's other settings go with its mode.

    Raises:
        FieldError: they do not; the line says why (the user's fault).
    """
    if task.mode == "sync":
        if task.asynchronous is not None:
            raise FieldError('asynchronous: only with mode = "async"')
        return
    if task.strategy != STRATEGY:
        raise FieldError(f'mode: "async" needs strategy = "{STRATEGY}", which weighs updates by their age')
    if task.privacy.is_secure_sum:
        raise FieldError(
            'mode: "async" does not go with privacy.level = "secure-sum": those who mask a sum together must begin '
            "together, from one version"
        )
    if task.privacy.dp is not None:
        raise FieldError(
            'mode: "async" does not go with privacy.dp: its budget is counted for cohorts that are drawn at random, '
            "and here whoever is quick is in more versions; privacy of single examples (plan.dp) goes with it"
        )
    selection = task.selection
    if selection.over_select != 1.0 or selection.gather_s > 0:
        raise FieldError('mode: "async" has no selection.over_select and no selection.gather_s: see asynchronous')
