"""What a task needs before it can run, and what all tasks share. Values only."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aggregator.core.bounds import max_message_bytes, max_next_bytes, max_step_bytes
from aggregator.core.folding import TermsContext
from aggregator.core.strategy_choice import identity, options_of
from aggregator.core.update_shape import shape_of
from aggregator.noisy_terms import sum_terms_of
from aggregator.sealed_adapter import SEAL_BYTES
from protocol.lora_pairs import n_dense_values
from protocol.secure_sum.messages import SumPlan
from protocol.secure_sum.roster import quantiser_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.config import TaskSettings
    from aggregator.conversation import Conversation
    from aggregator.core.folding import Strategy
    from aggregator.core.update_shape import UpdateShape
    from aggregator.fold_engine import FoldEngine
    from aggregator.ports import Accountant, BlobStore, Clock, SpentRecord, Tags, TaskKeys
    from aggregator.store_ports import LifecycleStore, Store
    from aggregator.sum_round import SumParts
    from host.bundle_folder import Bundle
    from protocol.plan import DeviceTerms
    from protocol.sum_round import SumTerms

__all__ = ["TaskSetup", "World"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSetup:
    """A task's settings and what they name, opened and checked."""

    settings: TaskSettings
    bundle: Bundle
    keys: TaskKeys
    strategy: Strategy
    spent: SpentRecord | None = None  # of a task with differential privacy
    tags: Tags | None = None  # of a task that chooses some devices of each

    @property
    def n_params(self) -> int:
        """How many values the adapter has."""
        return self.bundle.layout.n_params

    @property
    def sum_terms(self) -> SumTerms | None:
        """What its secure sums are agreed on, or None where single updates are taken."""
        return sum_terms_of(self.settings, n_params=self.n_params)

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
        return self.max_step_bytes or max_message_bytes(self.settings.plan, self.max_values)

    @property
    def max_answer_bytes(self) -> int:
        """The longest message of ours: the adapter in work, a base change with it, or a sum's roster."""
        n_dense = n_dense_values(self.bundle.layout) if self.strategy.needs.open_base else 0
        adapter = 4 * (self.max_values + n_dense) + SEAL_BYTES
        return adapter if self.sum_terms is None else max(adapter, max_next_bytes(self.sum_terms.max_cohort))

    @property
    def max_values(self) -> int:
        """The most values that an update, or the adapter in a work message, can have: control variates double both."""
        return 2 * self.n_params if self.strategy.needs.plain_sgd else self.n_params

    @property
    def options(self) -> Any:  # noqa: ANN401 - each strategy has its own class
        """The strategy's options."""
        return options_of(self.settings.strategy, self.settings.strategy_options)

    @property
    def strategy_identity(self) -> str:
        """What can never change about the task's strategy."""
        name = identity(self.settings.strategy, self.options)
        return name if self.settings.mode == "sync" else f"{name}+async"

    def terms(self, device: str, *, version: int) -> DeviceTerms | None:
        """Return what the strategy asks of a device in a round that is based on ``version``."""
        return self.strategy.terms(self.options, TermsContext(version=version, device=device))

    def shape(self, device: str, *, version: int) -> UpdateShape:
        """Return what that device's update holds."""
        return shape_of(self.bundle.layout, self.terms(device, version=version))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all tasks share."""

    store: Store
    lifecycle: LifecycleStore
    blobs: BlobStore
    clock: Clock
    conversation: Conversation
    accountant: Accountant
    keep_folded_updates: bool = False
    fold_workers: int = 0  # threads that open a round's updates; 0: what pays
    fold_engine: FoldEngine | None = None  # adds chunks elsewhere
    draw_secret: Callable[[int], bytes] = secrets.token_bytes  # noise; tests pass their own
    sums: SumParts | None = None
