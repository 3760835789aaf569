"""What a task needs before it can run, and what all tasks share. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.core.bounds import max_message_bytes, max_next_bytes, max_step_bytes
from protocol.secure_sum.messages import SumPlan
from protocol.secure_sum.roster import quantiser_of

if TYPE_CHECKING:
    from aggregator.config import TaskSettings
    from aggregator.conversation import Conversation
    from aggregator.core.folding import Strategy
    from aggregator.ports import BlobStore, Clock, LifecycleStore, Store
    from aggregator.sum_round import SumParts
    from host.bundle_folder import Bundle
    from protocol.messages import SumTerms
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
    def sum_terms(self) -> SumTerms | None:
        """What its secure sums are agreed on, or None where single updates are taken."""
        return self.settings.privacy.terms(self.settings.cohort, self.settings.min_cohort)

    @property
    def max_step_bytes(self) -> int | None:
        """The longest honest message of a device in a secure sum, or None where single updates are taken."""
        if self.sum_terms is None:
            return None
        plan = SumPlan.of(self.sum_terms, fleet="any", task="any", round_=1, version=0, n_params=self.n_params)
        return max_step_bytes(quantiser_of(plan))

    @property
    def max_message_bytes(self) -> int:
        """The longest honest message of this task's devices."""
        return self.max_step_bytes or max_message_bytes(self.settings.plan, self.n_params)

    @property
    def max_answer_bytes(self) -> int:
        """The longest message of ours: the adapter in work, or a sum's roster."""
        adapter = 4 * self.n_params
        return adapter if self.sum_terms is None else max(adapter, max_next_bytes(self.sum_terms.max_cohort))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all tasks share."""

    store: Store
    lifecycle: LifecycleStore
    blobs: BlobStore
    clock: Clock
    conversation: Conversation
    keep_folded_updates: bool = False
    fold_workers: int = 0  # threads that open a round's updates; 0: one for each core
    sums: SumParts | None = None
