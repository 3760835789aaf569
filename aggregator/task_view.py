"""What the intake rules must know of a task: the same for the service and for its ingest workers.

Laws: it follows from the task's settings, its bundle and the store's newest round; ``terms_of`` changes whenever
anything does by which an update's content is judged.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from aggregator.async_settings import oldest_welcome
from aggregator.core.buffer import WorkOfBuffers
from aggregator.core.intake import TaskView
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.core.privacy.sampling import PoissonSampling
    from aggregator.core.records import RoundRecord, TaskState
    from aggregator.store_ports import StoreReader
    from aggregator.task_setup import TaskSetup

__all__ = ["task_view", "terms_of", "welcome_works"]


def task_view(
    setup: TaskSetup,
    round_: RoundRecord,
    *,
    state: TaskState,
    n_places: int,
    sampling: PoissonSampling | None = None,
    works: Mapping[int, int] | None = None,
) -> TaskView:
    """Return the view.

    Args:
        setup: the task.
        round_: its newest round or buffer.
        state: whether it goes on.
        n_places: how many devices ``round_`` hands work to.
        sampling: who takes part, if chance decides.
        works: of an asynchronous task, the rounds whose work is welcome, and their versions.

    Raises:
        StorageError: the round's key is not there.
    """
    settings, keys = setup.settings, setup.keys
    return TaskView(
        task=settings.id,
        state=state,
        bundle_id=setup.bundle.id,
        n_params=setup.n_params,
        plan=settings.plan,
        max_examples=settings.max_examples,
        n_places=n_places,
        key=keys.of_round(round_.round),
        round=round_.round,
        round_state=round_.state,
        version=round_.version,
        seal_adapter=settings.privacy.seal_adapter,
        n_values_of=lambda device: setup.shape(device, version=round_.version).n_values,
        max_step_bytes=setup.max_step_bytes,
        sampling=sampling,
        buffers=None if works is None else WorkOfBuffers(version_of=works, key_of=keys.of_round),
    )


def welcome_works(setup: TaskSetup, store: StoreReader, buffer: RoundRecord) -> dict[int, int]:
    """Return the rounds of an asynchronous task whose work may still come, and the version that each is based on."""
    task = setup.settings.id
    restored, rejected = store.restored(task), store.rejected(task)
    oldest = oldest_welcome(setup.settings, version=buffer.version, restored=restored, rejected=rejected) or 0
    # After a rollback, until its first buffer opens, nothing is welcome.
    welcome = {one.round: one.version for one in store.rounds_from(task, version=oldest)}
    return welcome or {buffer.round: buffer.version}


def terms_of(setup: TaskSetup) -> str:
    """Return a digest of what decides whether the content of an update is sound."""
    settings = setup.settings
    terms = {
        "bundle": setup.bundle.id,
        "strategy": setup.strategy_identity,
        "plan": plain(settings.plan),
        "max_examples": settings.max_examples,
        "is_sum": settings.privacy.is_secure_sum,
    }
    return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()
