"""How far a graph of single examples is from examples in batches of one, whoever computed those.

Laws: no torch, so that ``verify`` can run on a device.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.problems import Problem
from export.runtime import Graph
from protocol.errors import EngineError
from protocol.per_example import CLIP, COUNTS, RADIUS

__all__ = ["TOLERANCE", "ExampleErrors", "compare_examples", "one_by_one"]

# How far losses, norms and the clipped sum may be from batches of one, each to its largest. Measured 1e-6 in float32;
# the grid turns that into whole points, of which a million values have a thousandth of the clip.
TOLERANCE = 1e-3

Alone = tuple[NDArray[np.float32], NDArray[np.float32]]  # losses [batch] and gradients [batch, n_params]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleErrors:
    """How far the graph is from batches of one, each relative to the largest."""

    loss: float
    norm: float
    sum: float


def compare_examples(path: Path, problem: Problem, alone: Iterable[Alone], *, what: str) -> ExampleErrors:
    """Hold the graph at ``path`` against what each example of the problem's first batches gives ``alone``.

    Raises:
        EngineError: they do not agree (``what`` ends the sentence), or onnxruntime does not take the graph.
    """
    graph, worst = Graph(path), np.zeros(3)
    for batch, (losses, gradients) in zip(problem.batches, alone, strict=False):
        norms = np.linalg.norm(gradients.astype(np.float64), axis=1)
        clip = np.float32(max(float(norms.mean()), 1e-6))  # some are clipped, some are not
        counts = np.ones(len(losses), np.float32)
        counts[1::3] = 0
        feeds = {**batch, "theta": problem.theta, COUNTS: counts, CLIP: np.array(clip)}
        found = graph.outputs(feeds)
        if [one.shape for one in found] != [losses.shape, norms.shape, problem.theta.shape]:
            raise EngineError(f"{path.name} is no graph of single examples: its outputs are of other shapes")
        its_losses, its_norms, points = found
        expected = np.trunc(gradients * (counts * RADIUS / np.maximum(norms, clip))[:, None]).sum(0)
        pairs = ((its_losses, losses), (its_norms, norms))
        errors = [float(np.abs(actual - right).max() / max(np.abs(right).max(), 1e-12)) for actual, right in pairs]
        errors.append(float(np.linalg.norm(points - expected) / RADIUS / max(counts.sum(), 1)))
        worst = np.maximum(worst, errors)  # NaN stays
    if not (worst <= TOLERANCE).all():
        message = (
            f"{path.name}: the graph of single examples does not agree with {what}: loss {worst[0]:.1e}, "
            f"norm {worst[1]:.1e}, clipped sum {worst[2]:.1e} (at most {TOLERANCE:.0e})"
        )
        raise EngineError(message)
    return ExampleErrors(loss=float(worst[0]), norm=float(worst[1]), sum=float(worst[2]))


def one_by_one(train: Path, problem: Problem, *, n_batches: int) -> Iterable[Alone]:
    """Yield what the training graph makes of each example of the first batches in a batch of its own.

    Raises:
        EngineError: onnxruntime does not take the graph.
    """
    graph = Graph(train)
    for batch in problem.batches[:n_batches]:
        found = [
            graph.outputs({**{name: array[row : row + 1] for name, array in batch.items()}, "theta": problem.theta})
            for row in range(len(next(iter(batch.values()))))
        ]
        yield np.array([float(loss) for loss, _ in found], np.float32), np.stack([gradient for _, gradient in found])
