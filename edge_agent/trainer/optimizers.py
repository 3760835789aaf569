"""Optimisers on the flat vector, outside the graph: clipping, proximal terms and the like are functions on vectors.

Laws: float32 state, updated in place, deterministic; the epsilon stays where it is written (an ONNX optimiser once
removed it from a graph: docs/adr/0003). Memory: two vectors for AdamW, one for SGD.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from protocol.plan import Optimizer

__all__ = ["AdamW", "FlatOptimizer", "Sgd", "clip_norm", "l2_norm", "make_optimizer"]

# Keeps the scale finite for a zero vector; the same constant as torch.nn.utils.clip_grad_norm_.
_CLIP_EPSILON = 1e-6


class FlatOptimizer(Protocol):
    """One step of descent on a flat float32 vector."""

    def step(self, theta: NDArray[np.float32], gradient: NDArray[np.float32]) -> None:
        """Move ``theta`` in place."""

    @property
    def moments(self) -> tuple[NDArray[np.float32], ...]:
        """What it remembers of earlier gradients; not copies."""

    @property
    def n_steps(self) -> int:
        """How many steps were taken, where the next depends on it."""

    def restore(self, moments: Sequence[NDArray[np.float32]], n_steps: int) -> None:
        """Go on as an optimiser of the same settings that had these."""


class AdamW:
    """Adam with decoupled weight decay.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, with the schedule multiplier 1 and the decay
    multiplied by the learning rate, as torch.optim.AdamW has it.
    """

    def __init__(self, settings: Optimizer, n_params: int) -> None:
        """Begin with zero moments."""
        self._settings = settings
        self._m = np.zeros(n_params, np.float32)
        self._v = np.zeros(n_params, np.float32)
        self._t = 0

    def step(self, theta: NDArray[np.float32], gradient: NDArray[np.float32]) -> None:
        """Move ``theta`` in place."""
        s = self._settings
        self._t += 1
        self._m += np.float32(1 - s.beta1) * (gradient - self._m)
        self._v *= np.float32(s.beta2)
        self._v += np.float32(1 - s.beta2) * np.square(gradient)
        theta *= np.float32(1 - s.learning_rate * s.weight_decay)
        denominator = np.sqrt(self._v)
        denominator /= np.float32((1 - s.beta2**self._t) ** 0.5)
        denominator += np.float32(s.epsilon)
        theta -= np.float32(s.learning_rate / (1 - s.beta1**self._t)) * self._m / denominator

    @property
    def moments(self) -> tuple[NDArray[np.float32], ...]:
        """Both moments."""
        return self._m, self._v

    @property
    def n_steps(self) -> int:
        """How many steps were taken."""
        return self._t

    def restore(self, moments: Sequence[NDArray[np.float32]], n_steps: int) -> None:
        """Go on as an optimiser that had these."""
        self._m[:], self._v[:] = moments
        self._t = n_steps


class Sgd:
    """Stochastic gradient descent with heavy-ball momentum (``beta1``) and L2 decay, as torch.optim.SGD has it."""

    def __init__(self, settings: Optimizer, n_params: int) -> None:
        """Begin with zero momentum."""
        self._settings = settings
        self._m = np.zeros(n_params, np.float32)

    def step(self, theta: NDArray[np.float32], gradient: NDArray[np.float32]) -> None:
        """Move ``theta`` in place."""
        s = self._settings
        self._m *= np.float32(s.beta1)
        self._m += gradient + np.float32(s.weight_decay) * theta
        theta -= np.float32(s.learning_rate) * self._m

    @property
    def moments(self) -> tuple[NDArray[np.float32], ...]:
        """The momentum."""
        return (self._m,)

    @property
    def n_steps(self) -> int:
        """Nothing depends on it."""
        return 0

    def restore(self, moments: Sequence[NDArray[np.float32]], n_steps: int) -> None:  # noqa: ARG002 - see n_steps
        """Go on as an optimiser that had these."""
        (self._m[:],) = moments


def make_optimizer(settings: Optimizer, n_params: int) -> FlatOptimizer:
    """Return the optimiser that ``settings`` names, with fresh state."""
    match settings.name:
        case "adamw":
            return AdamW(settings, n_params)
        case "sgd":
            return Sgd(settings, n_params)


def l2_norm(vector: NDArray[np.float32]) -> float:
    """Return the L2 norm, summed in float64; not by BLAS, whose threads would contend with the runtime's."""
    return math.sqrt(float(np.square(vector, dtype=np.float64).sum()))


def clip_norm(vector: NDArray[np.float32], limit: float | None) -> NDArray[np.float32]:
    """Return ``vector`` scaled to an L2 norm of at most ``limit``; the same object if nothing is to do."""
    if limit is None:
        return vector
    norm = l2_norm(vector)
    if norm <= limit:
        return vector
    return vector * np.float32(limit / (norm + _CLIP_EPSILON))
