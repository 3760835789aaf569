"""DP-SGD: local steps that tell little of any single example, whatever that example is.

Each step takes every example by a secret coin, clips each one's gradient to ``clip`` over all tensors jointly, sums on
a grid of integers, and adds discrete Gaussian noise before anything else looks at the sum.

Laws: an example changes the sum by at most ``clip``, up to what ``example_gradients`` says of its two ways and grows
the noise by. The divisor is the expected batch, never the one that was drawn. Coins and noise come from the system's
secret randomness and not from the plan's seed, which the service knows. Everything behind the noise (optimiser, codec)
is post-processing.
Memory: two vectors of int64 beside ordinary training.

Source:
    Abadi et al. 2016, arXiv:1607.00133, Algorithm 1. Departures: the grid, and the discrete Gaussian of Canonne,
    Kamath, Steinke 2020 (arXiv:2004.00010), against attacks on floating-point noise (Mironov 2012,
    doi:10.1145/2382196.2382264).
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.trainer.optimizers import clip_norm, make_optimizer
from protocol.bundle import CONTRASTIVE
from protocol.discrete_gaussian import SEED_BYTES, SecretStream, discrete_gaussian
from protocol.errors import ConfigError
from protocol.jobs import Progress
from protocol.per_example import RADIUS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Dataset
    from edge_agent.trainer.example_gradients import ExampleGradients
    from protocol.plan import Plan, SampleDp

    Report = Callable[[Progress], None]

__all__ = ["PrivateEpochs", "refuse_contrastive"]

_REPORT_EVERY_S: Final = 0.5


class PrivateEpochs:
    """The local epochs of one plan with ``dp``; keeps the figures that a result reports."""

    def __init__(self, plan: Plan, dp: SampleDp, data: Dataset, report: Report, *, seed: bytes | None = None) -> None:
        """Draw a fresh secret; ``seed`` is for tests."""
        self._plan, self._dp, self._data, self._report = plan, dp, data, report
        self._stream = SecretStream(os.urandom(SEED_BYTES) if seed is None else seed)
        self.sampling_rate = min(1.0, plan.batch_size / len(data))
        self.n_steps, self.train_s, self.last_loss = 0, 0.0, 0.0

    def run(self, gradients: ExampleGradients, theta_0: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the local adapter, float32 [n_params].

        Raises:
            EngineError, BundleError: as ``ExampleGradients.clipped_sum``.
        """
        plan, theta = self._plan, theta_0.copy()
        optimizer = make_optimizer(plan.optimizer, theta.size)
        n_steps = plan.epochs * math.ceil(len(self._data) / plan.batch_size)
        reported = time.monotonic()
        losses: list[float] = []
        for _ in range(n_steps):
            began = time.monotonic()
            losses.extend(found := self._step(gradients, theta, lambda g: optimizer.step(theta, g)))
            self.n_steps += 1
            now = time.monotonic()
            self.train_s += now - began
            if now - reported > _REPORT_EVERY_S:
                mean = float(np.mean(found)) if found else None
                self._report(Progress(step=self.n_steps, n_steps=n_steps, loss=mean))
                reported = now
        last = losses[-len(self._data) :]
        self.last_loss = float(np.mean(last)) if last else 0.0
        return theta

    def _step(
        self,
        gradients: ExampleGradients,
        theta: NDArray[np.float32],
        descend: Callable[[NDArray[np.float32]], None],
    ) -> list[float]:
        losses, total = gradients.clipped_sum(theta, self._draw())  # [n_params]
        # Up, so that the noise is never less than was accounted for.
        deviation = math.ceil(self._dp.noise_multiplier * gradients.noise_factor * RADIUS)
        total += discrete_gaussian(deviation, theta.size, self._stream)
        expected = self.sampling_rate * len(self._data)
        descend(clip_norm((total * (self._dp.clip / RADIUS / expected)).astype(np.float32), self._plan.clip_grad_norm))
        return losses

    def _draw(self) -> list[int]:
        """Return the rows of one batch: each example by its own coin."""
        if self.sampling_rate >= 1:
            return list(range(len(self._data)))
        below = np.uint64(int(self.sampling_rate * 2.0**64))
        taken: list[int] = np.flatnonzero(self._stream.words(len(self._data)) < below).tolist()
        return taken


def refuse_contrastive(kind: str) -> None:
    """Return if a single example of a task of this ``kind`` has a loss of its own.

    Raises:
        ConfigError: it has none, so there is nothing to clip (the plan's fault).
    """
    if kind in CONTRASTIVE:
        raise ConfigError(f"plan.dp: the loss of {kind} compares examples, and one alone has none to clip")
