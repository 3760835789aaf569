"""Judges what the evaluation graph gave for a batch: what was right, and by how much it was off.

Laws: all figures are sums over what was scored, so that sets and devices pool as they should. What is scored, and what
counts as correct, is

- classification: an example; its label has the highest logit;
- token-classification: a labelled word; likewise;
- causal-lm: a token with a predecessor; it was predicted. exp(loss) is the perplexity;
- sentence-embedding, image-text: an example; it found its partner among those of its batch;
- forecasting: a window; its mean absolute error is below that of repeating the last value. The loss is the mean squared
  error in units of the window's own variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from protocol.bundle import IGNORED
from protocol.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch

__all__ = ["Scores", "judge"]

_LEAST_VARIANCE: Final = 1e-5  # of a window that never changes, as in the training graph


@dataclass(frozen=True, slots=True)
class Scores:
    """Sums over what was scored."""

    n_scored: int = 0
    n_correct: int = 0
    loss: float = 0.0

    def __add__(self, other: Scores) -> Scores:
        """Return the sums over both."""
        return Scores(self.n_scored + other.n_scored, self.n_correct + other.n_correct, self.loss + other.loss)


def judge(outputs: Mapping[str, NDArray[np.float32]], batch: Batch) -> Scores:
    """Return the scores of one batch from the outputs of the evaluation graph.

    Raises:
        BundleError: the graph gives nothing of what can be judged.
    """
    if "logits" in outputs:
        logits, labels = outputs["logits"].astype(np.float64), batch["labels"]  # [batch, n_labels], [batch]
        if logits.ndim > 2:  # of words: [batch, seq, n_labels] and [batch, seq]
            is_labelled = labels != IGNORED
            logits, labels = logits[is_labelled], labels[is_labelled]
        n_correct = int((logits.argmax(axis=1) == labels).sum())
        return Scores(len(labels), n_correct, float(_cross_entropy(logits, labels).sum()))
    if {"losses", "hits"} <= outputs.keys():
        losses = outputs["losses"]  # [batch], or [batch, seq - 1] of tokens
        n_scored = len(losses) if losses.ndim == 1 else int(batch["attention_mask"][:, 1:].sum())
        return Scores(n_scored, int(outputs["hits"].sum()), float(outputs["losses"].sum(dtype=np.float64)))
    if "forecasts" in outputs:
        return _forecasts(outputs["forecasts"].astype(np.float64), batch)
    raise BundleError(
        f"the evaluation graph gives {', '.join(outputs)}; expected logits, forecasts, or losses and hits"
    )


def _forecasts(forecasts: NDArray[np.float64], batch: Batch) -> Scores:
    series, future = batch["series"].astype(np.float64), batch["future"]  # [batch, context or horizon, channel]
    errors = forecasts - future
    squares = errors**2 / (series.var(axis=1, keepdims=True) + _LEAST_VARIANCE)
    naive = np.abs(series[:, -1:] - future).mean(axis=(1, 2))  # [batch]
    n_better = int((np.abs(errors).mean(axis=(1, 2)) < naive).sum())
    return Scores(len(series), n_better, float(squares.mean(axis=(1, 2)).sum()))


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)  # [batch, n_labels]
    log_sum = np.log(np.exp(shifted).sum(axis=1))  # [batch]
    picked: NDArray[np.float64] = log_sum - shifted[np.arange(len(labels)), labels]
    return picked
