"""What a device does beside its rounds, put together from its settings; implements ``ports.Beside``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.local.orders import Orders
from edge_agent.local_process import LocalProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edge_agent.config import AgentConfig

__all__ = ["BesideRounds", "beside_rounds"]


class BesideRounds:
    """The local process, where the settings ask for one."""

    def __init__(self, process: LocalProcess) -> None:
        """Take over what is to be run."""
        self._process = process

    def turn(self, *, is_idle: bool) -> None:  # noqa: ARG002 - predictions go on during a round
        """Do what is due."""
        self._process.turn()

    def close(self) -> None:
        """End what runs."""
        self._process.close()


def beside_rounds(here: Path, config: AgentConfig, bundles: Mapping[str, Path]) -> BesideRounds | None:
    """Return what ``config`` asks for beside rounds, None if it is nothing.

    Args:
        here: the folder of the configuration.
        config: the device's.
        bundles: folders of the checked ones by id, the first one serves until the service has handed out a version.
    """
    if config.predict.port is None:
        return None
    orders = Orders(
        folder=str((here / config.device.folder).resolve()),
        bundles={one: str(folder.resolve()) for one, folder in bundles.items()},
        predict=config.predict,
        nice=config.trainer.nice,
        log_level=config.device.log_level,
    )
    return BesideRounds(LocalProcess(orders))
