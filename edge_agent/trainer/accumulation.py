"""Gradient accumulation: a plan's batch in pieces that fit the device, with the whole batch's loss and gradient.

A loss is a mean over something: over examples where each has one label, over predicted tokens in causal-lm. So a piece
counts by how many of these it has, and not by its examples: the weighted sum of the pieces' means is the mean of the
whole. A loss that compares a batch's examples with each other (contrastive) is no such mean and is refused.

Laws: equal to the whole batch up to rounding; memory is that of one piece and one more vector; the pieces of a batch
are taken in order, so the same job gives the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from protocol.bundle import IGNORED
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Batch = dict[str, NDArray[Any]]

__all__ = ["in_pieces", "loss_and_gradient"]


def _examples(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _predicted_tokens(batch: Batch) -> int:
    return int(batch["attention_mask"][:, 1:].sum())


def _labelled_words(batch: Batch) -> int:
    return int((batch["labels"] != IGNORED).sum())


# What the loss of each kind of task is a mean over.
_COUNTS: Final[dict[str, Callable[[Batch], int]]] = {
    "text-classification": _examples,
    "token-classification": _labelled_words,
    "image-classification": _examples,
    "forecasting": _examples,
    "causal-lm": _predicted_tokens,
}


def loss_and_gradient(
    step: Callable[[NDArray[np.float32], Batch], tuple[float, NDArray[np.float32]]],
    theta: NDArray[np.float32],
    batch: Batch,
    *,
    kind: str,
    micro_batch: int | None,
) -> tuple[float, NDArray[np.float32]]:
    """Return the mean loss over ``batch`` and its gradient, float32 [n_params], in pieces of ``micro_batch`` examples.

    Args:
        step: an engine's mean loss and gradient over what it is given.
        theta: the adapter, float32 [n_params].
        batch: the graph's inputs by name, the examples on the first axis.
        kind: the bundle's task.
        micro_batch: the most examples in a piece; None: the batch is taken whole.

    Raises:
        ConfigError: the task's loss is no mean over its examples or tokens (the plan's fault).
    """
    if micro_batch is None or _examples(batch) <= micro_batch:
        return step(theta, batch)
    total, loss, gradient = 0, 0.0, np.zeros(theta.size, np.float64)
    for piece, count in in_pieces(batch, kind=kind, micro_batch=micro_batch):
        piece_loss, piece_gradient = step(theta, piece)
        loss += count * piece_loss
        gradient += count * piece_gradient.astype(np.float64)
        total += count
    if not total:  # texts of one token each: nothing is predicted, whatever the piece
        return step(theta, {name: array[:micro_batch] for name, array in batch.items()})
    return loss / total, (gradient / total).astype(np.float32)


def in_pieces(batch: Batch, *, kind: str, micro_batch: int) -> Iterator[tuple[dict[str, NDArray[Any]], int]]:
    """Yield the pieces of ``batch`` that count, each with what it counts.

    Raises:
        ConfigError: as ``loss_and_gradient``.
    """
    count_of = _COUNTS.get(kind)
    if count_of is None:
        raise ConfigError(f"plan.micro_batch: the loss of {kind} is no mean over examples, so no batch can be split")
    for start in range(0, _examples(batch), micro_batch):
        piece = {name: array[start : start + micro_batch] for name, array in batch.items()}
        count = count_of(piece)
        if count:
            yield piece, count
