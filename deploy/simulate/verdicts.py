"""Checks a gate's history: each verdict is what an undisturbed measurement says, and no device was given a refused one.

Laws: takes the versions' bytes from the audit, which computed them from the journal, and measures them again in a
trainer that nobody kills; believes the service only in which version came when. Works for synchronous tasks, where a
copy of the version before it follows a refused one, and for asynchronous ones, where none does.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy.simulate.gated_task import GATE
from host.trainer_process import run_job
from protocol import codec
from protocol.jobs import EvaluateJob
from protocol.plan import Codec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from deploy.simulate.gated_task import GatedTask

__all__ = ["Verdicts", "check_verdicts", "measured_by"]

_DEADLINE_S: Final = 120.0
_TOLERANCE: Final = 1e-6  # of a loss near 0.7: one thread of the same runtime gives the same bits, more threads may not


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What was found; the last three must be 0."""

    n_promoted: int  # folds, not what was put back
    n_rejected: int
    n_wrong_figures: int  # versions whose measured loss is another than they have
    n_wrong_verdicts: int  # promoted, refused or put back although the figures say otherwise
    n_given_refused: int  # versions that were not promoted, and that a device was given or told of

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.n_wrong_figures or self.n_wrong_verdicts or self.n_given_refused)


def check_verdicts(
    versions: Sequence[Mapping[str, Any]],
    losses: Mapping[int, float],
    *,
    given: Collection[int],
) -> Verdicts:
    """Judge again.

    Args:
        versions: as ``edgefold task show --json`` tells of them, in order.
        losses: of each version, measured by ourselves.
        given: the versions that devices were told of or given.
    """
    promoted, n_wrong_figures, n_wrong_verdicts = 0, 0, 0
    counts = {"promoted": 0, "rejected": 0, "candidate": 0}
    for one in versions[1:]:
        number, status = one["version"], one["status"]
        counts[status] += one["round"] is not None
        n_wrong_figures += one["loss"] is not None and abs(one["loss"] - losses[number]) > _TOLERANCE
        if one["round"] is None:  # put back: it must be the one that devices had
            n_wrong_verdicts += one["origin"] != promoted
        elif status != "candidate":
            worse_by = losses[number] - losses[promoted] - GATE["margin"]
            n_wrong_verdicts += abs(worse_by) > _TOLERANCE and (worse_by <= 0) != (status == "promoted")
        if status == "promoted":
            promoted = number
    held_back = {one["version"] for one in versions if one["status"] != "promoted"}
    return Verdicts(
        n_promoted=counts["promoted"],
        n_rejected=counts["rejected"],
        n_wrong_figures=n_wrong_figures,
        n_wrong_verdicts=n_wrong_verdicts,
        n_given_refused=len(held_back & set(given)),
    )


def measured_by(task: GatedTask) -> Callable[[NDArray[np.float32]], float]:
    """Return a function that measures an adapter's loss on the task's set, in a process of its own."""

    def measure(adapter: NDArray[np.float32]) -> float:
        with tempfile.TemporaryDirectory(prefix="edgefold-") as name:
            path = Path(name) / "adapter.payload"
            path.write_bytes(codec.encode(adapter, Codec(name="float32")))
            job = EvaluateJob(bundle=str(task.bundle), adapter=str(path), sets={"all": str(task.test_set)})
            return run_job(job, deadline_s=_DEADLINE_S).sets["all"].loss

    return measure
