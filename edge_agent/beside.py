"""What a device does beside its rounds, put together from its settings; implements ``ports.Beside``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.lessons import Lessons, StoreLessons
from edge_agent.local.orders import Orders
from edge_agent.local_process import LocalProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge_agent.config import AgentConfig
    from edge_agent.personal import Job, PersonalTraining, Result
    from edge_agent.ports import Running
    from protocol.errors import EdgefoldError

__all__ = ["BesideRounds", "beside_rounds", "lessons_of"]


class BesideRounds:
    """The local process, and the training of the personal part, where the settings ask for them."""

    def __init__(self, process: LocalProcess, personal: PersonalTraining | None = None) -> None:
        """Take over what is to be run."""
        self._process, self._personal = process, personal

    def turn(self, *, is_idle: bool) -> None:
        """Do what is due; predictions go on during a round."""
        self._process.turn()
        if self._personal is not None:
            self._personal.turn(is_idle=is_idle)

    def close(self) -> None:
        """End what runs."""
        if self._personal is not None:
            self._personal.close()
        self._process.close()


def beside_rounds(here: Path, config: AgentConfig, bundles: Mapping[str, Path]) -> BesideRounds | None:
    """Return what ``config`` asks for beside rounds, None if it is nothing.

    Args:
        here: the folder of the configuration.
        config: the device's.
        bundles: folders of the checked ones by id, the first one serves until the service has handed out a version.
    """
    if config.predict.port is None and config.store is None and config.local_mqtt is None:
        return None
    orders = Orders(
        folder=str((here / config.device.folder).resolve()),
        bundles={one: str(folder.resolve()) for one, folder in bundles.items()},
        fetched=str((here / config.bundles.folder).resolve()),
        here=str(here.resolve()),
        predict=config.predict,
        store=config.store,
        local_mqtt=config.local_mqtt,
        continual=config.continual,
        log_level=config.device.log_level,
    )
    return BesideRounds(LocalProcess(orders), _personal(here, config, bundles))


def lessons_of(here: Path, config: AgentConfig) -> Lessons:
    """Return what this device's rounds train on."""
    if config.store is not None:
        return StoreLessons(here / config.store.folder, here / config.device.folder)
    return Lessons(here / (config.data.train or ""))


def _personal(here: Path, config: AgentConfig, bundles: Mapping[str, Path]) -> PersonalTraining | None:
    if config.store is None or not config.continual.personal:
        return None
    from edge_agent.personal import PersonalTraining  # noqa: PLC0415 - a device without it does without it
    from host.trainer_process import Launch, TrainerProcess  # noqa: PLC0415

    launch = Launch(nice=config.trainer.nice, memory_limit_bytes=config.trainer.memory_limit_mb * 2**20)

    def start(job: Job, on_end: Callable[[Result | EdgefoldError], None]) -> Running:
        return TrainerProcess(job, on_end=on_end, launch=launch)  # type: ignore[arg-type]  # a job ends in its result

    return PersonalTraining(
        here / config.device.folder,
        here / config.store.folder,
        config.continual,
        bundles=bundles,
        task=config.predict.task,
        start=start,
    )
