"""Makes the job of a round's trainer: out of the work, the lesson and what the device keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from host.durable import write_bytes
from protocol.jobs import TrainJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.adapters.device_folder import DeviceFolder
    from edge_agent.config import AgentConfig
    from edge_agent.core.session import SessionState
    from edge_agent.lessons import Lesson
    from edge_agent.sample_budget import SampleBudget
    from protocol.messages import Work

__all__ = ["make_train_job"]


def make_train_job(  # noqa: PLR0913 - all that a training is made of
    work: Work,
    lesson: Lesson,
    *,
    bundle: Path,
    folder: DeviceFolder,
    state: SessionState,
    config: AgentConfig,
    budget: SampleBudget,
) -> TrainJob:
    """Return what the trainer is to do for ``work``; writes the adapter where the job says that it is.

    Raises:
        StorageError: it cannot be written.
    """
    adapter = folder.scratch / "adapter.payload"
    write_bytes(adapter, work.adapter)
    terms = work.secure_sum
    residual = _left(state.residual_of.get(work.task), folder.residual_path)
    return TrainJob(
        bundle=str(bundle),
        data=lesson.data,
        replay=lesson.replay,
        memory=lesson.memory,
        out=str(folder.scratch),
        plan=work.plan,
        adapter=str(adapter),
        residual=None if terms is not None else residual,
        kept=_left(state.kept_of.get(work.task), folder.kept_path),
        sum_clip=None if terms is None else terms.clip,
        sum_clips_norm=terms is not None and terms.noise_multiplier is not None,
        sample_charge=budget.charge(work, folder.work_id()),
        one_by_one=budget.is_strict,
        threads=config.trainer.n_threads,
        max_examples=config.data.max_examples,
        checkpoint=str(folder.checkpoint),
        least_pass_s=config.trainer.least_pass_s,
    )


def _left(update_id: bytes | None, path_of: Callable[[bytes], Path]) -> str | None:
    """Return the file that an accepted update left, if there is one."""
    path = None if update_id is None else path_of(update_id)
    return str(path) if path is not None and path.is_file() else None
