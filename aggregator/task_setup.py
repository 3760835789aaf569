"""What a task needs before it can run, and what all tasks share. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.core.bounds import max_message_bytes

if TYPE_CHECKING:
    from aggregator.config import TaskSettings
    from aggregator.conversation import Conversation
    from aggregator.core.folding import Strategy
    from aggregator.ports import BlobStore, Clock, LifecycleStore, Store
    from host.bundle_folder import Bundle
    from protocol.sealing import TaskKey

__all__ = ["TaskSetup", "World"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSetup:
    """A task's settings and what they name, opened and checked."""

    settings: TaskSettings
    bundle: Bundle
    key: TaskKey
    strategy: Strategy

    @property
    def n_params(self) -> int:
        """How many values the adapter has."""
        return self.bundle.layout.n_params

    @property
    def max_message_bytes(self) -> int:
        """The longest honest message of this task's devices."""
        return max_message_bytes(self.settings.plan, self.n_params)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all tasks share."""

    store: Store
    lifecycle: LifecycleStore
    blobs: BlobStore
    clock: Clock
    conversation: Conversation
    keep_folded_updates: bool = False
