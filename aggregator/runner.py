"""What the service asks of a running task, whichever life it has: by rounds or by buffers.

Laws: ``resume`` first; one thread; see ``task_runner`` and ``async_runner``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from aggregator.async_runner import AsyncRunner
from aggregator.task_runner import TaskRunner

if TYPE_CHECKING:
    from aggregator.conversation import Outgoing
    from aggregator.core.intake import Admitted, Stepped, Taken, TaskView
    from aggregator.core.records import CommandRecord
    from aggregator.task_setup import TaskSetup, World
    from aggregator.task_versions import TaskVersions

__all__ = ["Runner", "make_runner"]


class Runner(Protocol):
    """One task's life."""

    task: str
    setup: TaskSetup
    versions: TaskVersions

    def resume(self) -> None:
        """Begin the task, or go on where the store says it is."""

    def extend_deadline(self) -> None:
        """Give devices that could not reach us at least a grace to answer."""

    def advance(self, *, is_reachable: bool) -> bool:
        """Do what is due; return whether anything changed, so that it is announced."""

    def obey(self, command: CommandRecord) -> str | None:
        """Carry out what the operator asked for; return why not, or None."""

    def view(self) -> TaskView:
        """Return what the intake rules must know."""

    def admit(self, admitted: Admitted, *, n_bytes: int) -> Outgoing | None:
        """Hand the device its work, or let it wait; return what to tell whom, if anything."""

    def take(self, taken: Taken, *, n_bytes: int) -> Outgoing:
        """Keep the update durably and return its receipt."""

    def take_step(self, stepped: Stepped, *, n_bytes: int) -> None:
        """Keep a message of a secure sum durably."""

    def outgoing(self) -> list[Outgoing]:
        """Return, once, what is to be sent besides announcements and answers."""

    def say_again(self) -> None:
        """Send again what devices may not have heard while we were away."""

    @property
    def announcement(self) -> Outgoing:
        """What everyone should know now."""

    @property
    def is_finished(self) -> bool:
        """Whether no more work will be handed out."""

    @property
    def is_settled(self) -> bool:
        """Whether it is finished and no version that was measured waits for its verdict."""

    @property
    def is_closing(self) -> bool:
        """Whether a fold is under way."""


def make_runner(setup: TaskSetup, world: World) -> Runner:
    """Return the task's runner, not yet resumed."""
    return TaskRunner(setup, world) if setup.settings.mode == "sync" else AsyncRunner(setup, world)
