"""One round's terms against forgetting, as a function that stands in for the engine's loss and gradient.

Laws: the loss is that of the new examples alone, so that a report means what it always did; a term whose material is
missing (the first stretch has none) is left out; the generators are the plan's seed's, apart from that of the batches,
so that a plan without terms shuffles as before.
"""

from __future__ import annotations

import itertools
import json
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.trainer.continual.distillation import relabelled
from edge_agent.trainer.continual.elastic import Memory, consolidated, fisher_information, with_spring
from edge_agent.trainer.continual.replay import mixed, replayed_batches
from host.arrays import load_vector, save_vector
from protocol.errors import ConfigError
from protocol.jobs import ANCHOR_FILE, FISHER_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch, Dataset
    from edge_agent.trainer.engines import Engine
    from protocol.continual import ContinualTerms
    from protocol.plan import Plan

__all__ = ["Remembering", "load_memory", "save_memory"]

_REPLAY, _DISTILL, _FISHER = range(1, 4)  # streams of the plan's seed; the batches' own is the seed itself
_SMALLEST_BATCH: Final = 1


class Remembering:
    """The engine of one round, with the terms of ``plan.continual`` on top."""

    def __init__(self, engine: Engine, plan: Plan, terms: ContinualTerms) -> None:
        """Begin without anything to remember; ``replay`` and ``recall`` bring it."""
        self._engine, self._plan, self._terms = engine, plan, terms
        self._memory: Memory | None = None
        self._kept: Iterator[Batch] | None = None
        self._draws, self._n_kept = self._rng(_DISTILL), 0

    def replay(self, kept: Dataset | None) -> None:
        """Mix in examples of ``kept``."""
        fraction = self._terms.replay_fraction
        if kept is None or fraction is None:
            return
        # As many of them as their weight says, so that a step costs about what a larger batch would.
        n = max(_SMALLEST_BATCH, math.ceil(self._plan.batch_size * fraction / (1 - fraction)))
        size = min(n, self._plan.micro_batch or self._plan.batch_size)
        self._kept = replayed_batches(kept, batch_size=size, rng=self._rng(_REPLAY))

    def recall(self, memory: Memory | None) -> None:
        """Hold on to what a former stretch taught."""
        self._memory = memory

    def loss_and_gradient(self, theta: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float32]]:
        """Return the loss of ``batch`` and the gradient of it with all terms, as ``Engine.loss_and_gradient``."""
        terms, memory = self._terms, self._memory
        loss, gradient = self._engine.loss_and_gradient(theta, batch)
        if self._kept is not None and terms.replay_fraction is not None:
            _, of_kept = self._engine.loss_and_gradient(theta, next(self._kept))
            self._n_kept += 1
            gradient = mixed(gradient, of_kept, fraction=terms.replay_fraction)
        if memory is not None and terms.lwf_weight:
            said = self._engine.scores(memory.anchor, batch)
            _, slope = self._engine.loss_and_gradient(theta, relabelled(batch, said, rng=self._draws))
            gradient = gradient + np.float32(terms.lwf_weight) * slope
        return loss, with_spring(gradient, theta, memory, terms.ewc_strength)

    def state(self) -> str:
        """Return how far the round's draws are, as JSON, for a checkpoint."""
        return json.dumps({"n_kept": self._n_kept, "draws": self._draws.bit_generator.state})

    def resume(self, state: str) -> None:
        """Go on where a checkpoint's ``state`` was taken; after ``replay``, before the first step.

        Raises:
            KeyError, TypeError, ValueError: it is no such state; nothing has changed.
        """
        said: dict[str, Any] = json.loads(state)
        draws = self._rng(_DISTILL)
        draws.bit_generator.state = said["draws"]
        self._n_kept, self._draws = int(said["n_kept"]), draws
        if self._kept is not None:  # the same batches in the same order, up to there
            self._kept = itertools.islice(self._kept, self._n_kept, None)

    def consolidate(self, theta: NDArray[np.float32], data: Dataset) -> Memory:
        """Return what to keep of the stretch that ``data`` was and that ended at ``theta``, float32 [n_params]."""
        if self._terms.ewc_strength is None:
            fisher = np.zeros(theta.size, np.float32)
        else:
            fisher = fisher_information(self._engine.loss_and_gradient, theta, data, rng=self._rng(_FISHER))
        decay = 1.0 if self._terms.ewc_decay is None else self._terms.ewc_decay
        return consolidated(self._memory, theta, fisher, decay=decay)

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self._plan.seed, stream])


def load_memory(folder: Path, n_params: int) -> Memory:
    """Return the memory in ``folder``.

    Raises:
        ConfigError: it is missing (whoever wrote the job is at fault).
        StorageError: it is damaged.
    """
    try:
        anchor = load_vector(folder / ANCHOR_FILE, n_values=n_params)
        fisher = load_vector(folder / FISHER_FILE, n_values=n_params)
    except FileNotFoundError as error:
        raise ConfigError(f"{folder}: no memory of a stretch before") from error
    return Memory(anchor=anchor, fisher=np.maximum(fisher, 0))


def save_memory(folder: Path, memory: Memory) -> None:
    """Write ``memory`` for the next stretch."""
    save_vector(folder / ANCHOR_FILE, memory.anchor)
    save_vector(folder / FISHER_FILE, memory.fisher)
