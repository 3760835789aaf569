"""How this device starts trainer processes, from its settings: engine, niceness, and limits of memory and processor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from host.cgroup import make_trainer_cgroup
from host.logs import event as log
from host.trainer_process import Launch, TrainerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_agent.config import AgentConfig
    from edge_agent.ports import Running, StartStep, StartTrainer
    from protocol.errors import EdgefoldError
    from protocol.jobs import Progress, SumStepJob, SumStepResult, TrainJob, TrainResult

__all__ = ["make_launch", "step_starter", "trainer_starter"]

_MB = 2**20


def make_launch(config: AgentConfig) -> Launch:
    """Return how trainers are started; makes their cgroup where ``[rules] cpu_fraction`` asks for one and it can be."""
    trainer, cpu_fraction = config.trainer, config.rules.cpu_fraction
    limit_bytes = trainer.memory_limit_mb * _MB
    cgroup = None
    if cpu_fraction is not None:
        cgroup = make_trainer_cgroup(memory_bytes=limit_bytes, cpu_fraction=cpu_fraction)
        log("trainer-limits", by="rlimit" if cgroup is None else "cgroup", cpu_fraction=cpu_fraction)
    return Launch(nice=trainer.nice, memory_limit_bytes=limit_bytes, cgroup=cgroup)


def trainer_starter(launch: Launch, engines: Mapping[str, str]) -> StartTrainer:
    """Return what starts trainers; ``engines`` has the engine of each bundle's folder."""

    def start(
        job: TrainJob,
        *,
        on_end: Callable[[TrainResult | EdgefoldError], None],
        on_progress: Callable[[Progress], None],
    ) -> Running:
        job = replace(job, engine=engines[job.bundle])
        return TrainerProcess(job, on_end=on_end, on_progress=on_progress, launch=launch)  # type: ignore[arg-type]  # a TrainJob ends in a TrainResult

    return start


def step_starter(launch: Launch) -> StartStep:
    """Return what starts the steps of secure sums."""

    def start(job: SumStepJob, *, on_end: Callable[[SumStepResult | EdgefoldError], None]) -> Running:
        return TrainerProcess(job, on_end=on_end, launch=launch)  # type: ignore[arg-type]  # a SumStepJob ends in a SumStepResult

    return start
