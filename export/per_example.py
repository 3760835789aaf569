"""Pass: the training graph that clips each example's gradient by itself, and its check against batches of one.

Its contract is ``protocol.per_example``: the rows of ``export.example_rows`` are scaled to at most the clip, rounded
towards zero onto a grid of integers and summed there, so the sum is exact and what one example adds is bounded.

Laws: the bound is proven and not measured: norms are summed in doubles, whose error over ``MAX_PARAMS`` values is below
2^-25, the two roundings of a scaled value in float32 are below 2^-23 together, and ``SHRINK`` takes off 2^-20. Nothing
of the bundle is written here.

Source: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1, "clip gradient".
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.adapt import Adapted, Options
from export.example_errors import ExampleErrors, compare_examples
from export.example_rows import ExampleRows
from export.problems import Batch, Problem
from export.trace import Step, plain, trace_losses
from models.adapters import named_trainables
from protocol.errors import ConfigError
from protocol.per_example import CLIP, COUNTS, LOSSES, NORMS, POINTS, RADIUS

__all__ = ["MAX_PARAMS", "check_examples", "clipped_sum", "refuse_large", "trace_clipped"]

# Sixteen examples then have 256 MB of gradients; a batch of one at a time is what such an adapter should take.
MAX_PARAMS = 1 << 22
SHRINK = 1 - 2.0**-20
N_BATCHES = 4  # of the parity problem: 8, 1, 5 and 3 examples of four lengths


def refuse_large(n_params: int) -> None:
    """Return if a batch of gradients fits a device.

    Raises:
        ConfigError: there are too many trained parameters.
    """
    if n_params > MAX_PARAMS:
        message = (
            f"--per-example: {n_params:,} trained parameters, and each example of a batch needs as many; at most "
            f"{MAX_PARAMS:,} are taken. Train fewer (--adapter lora), or leave it out: devices then take one by one"
        )
        raise ConfigError(message)


def trace_clipped(adapted: Adapted, options: Options, *, theta: Tensor) -> Step:
    """Return the step (theta, batch, counts, clip) -> (losses, norms, points) of ``protocol.per_example``.

    Raises:
        ConfigError: the task's loss compares examples, or the model has a gradient that is not told apart.
    """
    inner = trace_losses(
        adapted.model,
        adapted.task,
        adapted.trainables,
        theta=theta,
        max_tokens=options.max_tokens,
        checkpoint=options.checkpoint,
    )
    rows_of = ExampleRows(inner.graph, n_batch=len(inner.batch))

    def clipped(values: Sequence[Tensor], theta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *batch, counts, clip = rest
        losses, rows = rows_of(values, theta, *batch)
        norms, points = clipped_sum(rows, counts, clip)
        return losses, norms, points

    batch = (*inner.batch, torch.ones(inner.batch[0].shape[0]), torch.tensor(1.0))
    graph = plain(clipped, list(inner.frozen.values()), theta, batch)
    free = (*inner.free, frozenset({0}), frozenset[int]())
    return Step(graph, inner.frozen, theta, batch, free, (*inner.inputs, COUNTS, CLIP), (LOSSES, NORMS, POINTS))


def clipped_sum(rows: Sequence[Tensor], counts: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Return each example's norm before the clip, float32 [batch], and the sum on the grid, int32 [n_params].

    Args:
        rows: float32 [batch, n] each, which joined are [batch, n_params].
        counts: float32 [batch]; zero for a row that is there to fill the batch.
        clip: float32 [], above 0.
    """
    wide = [one.to(torch.float64) for one in rows]
    norms = torch.stack([(one * one).sum(1) for one in wide]).sum(0).sqrt()  # [batch]
    factors = counts.to(torch.float64) * (RADIUS * SHRINK) / torch.maximum(norms, clip.to(torch.float64))
    own = factors.to(torch.float32).unsqueeze(1)  # [batch, 1]
    points = [(one * own).to(torch.int32).sum(0, dtype=torch.int32) for one in rows]  # a cast rounds towards zero
    return norms.to(torch.float32), torch.cat(points)


def check_examples(path: Path, adapted: Adapted, problem: Problem) -> ExampleErrors:
    """Hold the written graph against PyTorch, example by example.

    Raises:
        EngineError: they do not agree, or onnxruntime does not take the graph.
    """
    found = (_one_by_one(adapted, batch, problem.theta) for batch in problem.batches[:N_BATCHES])
    return compare_examples(path, problem, found, what="PyTorch's batches of one, nothing was written")


def _one_by_one(
    adapted: Adapted, batch: Batch, theta: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what PyTorch makes of each example in a batch of its own: losses [n] and gradients [n, n_params]."""
    task, wrapped = adapted.task, adapted.task.wrap(adapted.model)
    values = [torch.from_numpy(batch[name]) for name in (*task.inputs, *task.targets)]
    losses, gradients = [], []
    for row in range(len(values[0])):
        vector = torch.from_numpy(theta).clone().requires_grad_()
        own = {f"model.{name}": value for name, value in named_trainables(vector, adapted.trainables).items()}
        one = [value[row : row + 1] for value in values]
        loss = task.loss(torch.func.functional_call(wrapped, own, tuple(one[: len(task.inputs)])), *one)
        (gradient,) = torch.autograd.grad(loss, vector)
        losses.append(float(loss))
        gradients.append(gradient.numpy())
    return np.array(losses, np.float32), np.stack(gradients)
