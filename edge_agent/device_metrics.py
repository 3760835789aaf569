"""What this device tells of how it learns, with an update: what the task asks for and the owner allows, and no more.

Laws: nothing without both; nothing with a secure sum or under privacy of examples, whatever is asked and allowed; the
figures are those of ``edgefold agent status``, counted by the local process, and of no example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.adapters.scores import load_scores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from protocol.messages import Work
    from protocol.metrics import MetricName

__all__ = ["metrics_for"]

_DIGITS = 4  # a ten-thousandth: more would tell of single examples


def metrics_for(work: Work, allowed: Sequence[MetricName], folder: Path) -> dict[MetricName, float] | None:
    """Return the figures to send with the update for ``work``, None if there are none.

    Args:
        work: what the service asks for.
        allowed: what the owner lets this device tell.
        folder: the agent's.
    """
    if work.metrics is None or work.plan.dp is not None or work.secure_sum is not None:
        return None
    scores = load_scores(folder)
    progress = scores.progress
    known: dict[MetricName, float | None] = {
        "stream-accuracy": scores.accuracy,
        "recent-accuracy": scores.recent_accuracy,
        "average-accuracy": None if progress is None else progress.average_accuracy,
        "forgetting": None if progress is None else progress.forgetting,
        "backward-transfer": None if progress is None else progress.backward_transfer,
    }
    wanted = {name: known[name] for name in work.metrics if name in allowed}
    return {name: round(value, _DIGITS) for name, value in wanted.items() if value is not None} or None
