"""The clipped gradients of single examples, summed on a grid: one by one, or by one graph that tells them apart.

    OneByOne    each example is a batch of its own, clipped here. Whatever the bundle's graphs compute, an example is
                seen alone, so it moves the sum by at most the clip, exactly
    InOneGraph  a bundle's graph of ``protocol.per_example`` takes many and clips each inside: faster, the more so the
                shorter examples are. That it keeps them apart is the bundle's maker's word

Laws: both give the sum of integers whose part of one example has an L2 norm of at most ``RADIUS``. In a graph the
rounding of an example's gradient depends on its company, so an example moves those of others too: by at most
``ROUNDING`` of a clip each, as tests measure with a wide margin. ``noise_factor`` is what the noise must grow by to
cover that; it follows from the plan alone and never from what was drawn. The graph's first batch is held against
examples one by one, and a graph that says something else ends the training.
Memory: of a graph, that of a batch and a gradient for each of its examples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from edge_agent.trainer.optimizers import l2_norm
from protocol.errors import BundleError, EngineError
from protocol.per_example import MAX_ROWS, RADIUS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Dataset
    from edge_agent.trainer.engines import Engine, ExampleEngine

    Sum = tuple[list[float], NDArray[np.int64]]  # losses, and points [n_params]

__all__ = ["ROUNDING", "ExampleGradients", "InOneGraph", "OneByOne", "clipped_points", "most_rows"]

# Of a clip: how far the company of other examples may move one's gradient on the grid. Rounding is about 1e-6 of it in
# float32; values that it carries over a point of the grid are a thousandth of all, 2e-5 of the clip at 75,000.
ROUNDING: Final = 1e-4
_SHRINK: Final = 1 - 2.0**-30
_AGREE: Final = 1e-3  # of a clip: how far the graph may be from examples one by one; a wrong graph is at 1e-1 and above


class ExampleGradients(Protocol):
    """What a step of DP-SGD asks for."""

    @property
    def noise_factor(self) -> float:
        """Return by how much the noise must be larger than the plan says, at least 1."""

    def clipped_sum(self, theta: NDArray[np.float32], rows: list[int]) -> Sum:
        """Return the losses of the data's ``rows`` and the sum of their clipped gradients, int64 [n_params].

        Raises:
            EngineError: a loss or gradient is not finite, or the engine fails.
            BundleError: the bundle's graph is not what it should be (its maker's fault).
        """


class OneByOne:
    """Each example is a batch of its own."""

    noise_factor: float = 1.0

    def __init__(self, engine: Engine, data: Dataset, *, clip: float) -> None:
        """Take the examples from ``data``."""
        self._engine, self._data, self._clip = engine, data, clip

    def clipped_sum(self, theta: NDArray[np.float32], rows: list[int]) -> Sum:
        """Return losses and sum, as the port says."""
        losses, total = [], np.zeros(theta.size, np.int64)  # [n_params]
        for row in rows:
            loss, gradient = self._engine.loss_and_gradient(theta, self._data.batch([row]))
            _refuse_divergence(math.isfinite(loss) and bool(np.isfinite(gradient).all()))
            total += clipped_points(gradient, clip=self._clip)
            losses.append(loss)
        return losses, total


class InOneGraph:
    """Many examples at once; all passes of a step have one shape, filled up with examples that count zero."""

    def __init__(
        self,
        engine: ExampleEngine,
        alone: OneByOne,
        data: Dataset,
        *,
        clip: float,
        batch_size: int,
        at_once: int | None = None,
    ) -> None:
        """Take the examples from ``data``.

        Args:
            engine: of a bundle that has such a graph.
            alone: what the graph is held against.
            data: the examples.
            clip: the largest L2 norm of an example's gradient.
            batch_size: the expected batch of a step.
            at_once: the most examples in a pass; None: ``batch_size``.
        """
        self._engine, self._alone, self._data, self._clip = engine, alone, data, clip
        self._most_at_once, self._most = min(at_once or batch_size, MAX_ROWS), most_rows(batch_size)
        self.noise_factor = 1 + ROUNDING * self._most
        self._is_checked = False

    def clipped_sum(self, theta: NDArray[np.float32], rows: list[int]) -> Sum:
        """Return losses and sum, as the port says."""
        if len(rows) > self._most:  # more than the noise covers; as good as never drawn
            return self._alone.clipped_sum(theta, rows)
        losses, total = list[float](), np.zeros(theta.size, np.int64)  # [n_params]
        if not rows:
            return losses, total
        ascending = sorted(rows, key=lambda row: int(self._data.lengths[row]))  # so that little is padding
        at_once = math.ceil(len(rows) / math.ceil(len(rows) / self._most_at_once))
        for start in range(0, len(rows), at_once):
            own = ascending[start : start + at_once]
            padded = own + own[:1] * (at_once - len(own))
            counts = (np.arange(at_once) < len(own)).astype(np.float32)  # [batch]
            if not self._is_checked:
                self._check(theta, padded, n_own=len(own))
            found, points = self._pass(theta, padded, counts)
            losses += found[: len(own)].tolist()
            total += points
        return losses, total

    def _pass(
        self, theta: NDArray[np.float32], rows: list[int], counts: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        losses, norms, points = self._engine.clipped_points(
            theta, self._data.batch(rows), counts=counts, clip=self._clip
        )
        _refuse_divergence(bool(np.isfinite(losses).all() and np.isfinite(norms).all()))
        wide = points.astype(np.int64)  # [n_params]
        if _length(wide) > RADIUS * float(counts.sum()):
            raise BundleError("the graph of single examples gives a sum beyond what it is to clip to")
        return losses, wide

    def _check(self, theta: NDArray[np.float32], rows: list[int], *, n_own: int) -> None:
        """Hold the shortest and the longest example, in their company, against themselves alone.

        Raises:
            BundleError: they are not the same.
        """
        chosen = sorted({0, n_own - 1})
        counts = np.zeros(len(rows), np.float32)
        counts[chosen] = 1
        losses, points = self._pass(theta, rows, counts)
        alone_losses, alone = self._alone.clipped_sum(theta, [rows[i] for i in chosen])
        apart = _length(points - alone) / RADIUS
        limit = _AGREE + 2 * len(chosen) * math.sqrt(theta.size) / RADIUS  # a point of the grid for each value
        if apart > limit or not np.allclose(losses[chosen], alone_losses, rtol=_AGREE, atol=_AGREE):
            raise BundleError(
                f"the graph of single examples is {apart:.1e} of a clip from examples one by one, at most {limit:.1e} "
                "is rounding: it computes something else"
            )
        self._is_checked = True


def _length(points: NDArray[np.int64]) -> float:
    """Return the L2 norm of points of the grid."""
    return math.sqrt(float(np.square(points.astype(np.float64)).sum()))


def most_rows(batch_size: int) -> int:
    """Return how many examples of a step the noise of a graph covers; far more than are ever drawn."""
    return 4 * batch_size + 32


def clipped_points(gradient: NDArray[np.float32], *, clip: float) -> NDArray[np.int64]:
    """Return a finite ``gradient`` on the grid, int64 [n_params], its L2 norm at most ``RADIUS`` in integers."""
    factor = min(1.0, clip / max(l2_norm(gradient), 1e-300)) * (RADIUS / clip)
    points = np.trunc(gradient.astype(np.float64) * factor).astype(np.int64)
    while int(np.square(points).sum()) > RADIUS**2:  # the doubles above may err by an ulp
        points = np.trunc(points * _SHRINK).astype(np.int64)
    return points


def _refuse_divergence(is_finite: bool) -> None:  # noqa: FBT001 - the one thing that is asked
    if not is_finite:
        raise EngineError("loss or gradient of an example is not finite; lower the learning rate")
