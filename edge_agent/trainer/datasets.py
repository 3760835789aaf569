"""Opens a device's data file as the bundle's task asks for it, and judges what the evaluation graph gave.

Laws: the bundle's task kind decides, nothing is guessed from the file; a kind that this trainer does not know is the
bundle's fault. What is scored is an example in classification and a predicted token in causal-lm, so that losses and
accuracies of sets and devices pool as they should; exp(loss) of causal-lm is the perplexity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.trainer.batches import tokenise
from edge_agent.trainer.examples import read_examples
from edge_agent.trainer.images import read_images
from protocol.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch, Dataset
    from host.bundle_folder import Bundle

__all__ = ["Scores", "judge", "open_dataset"]

_LABELLED: Final = ("text-classification", "image-classification")
_UNLABELLED: Final = ("causal-lm",)


def open_dataset(bundle: Bundle, data: Path, *, max_tokens: int, max_examples: int) -> Dataset:
    """Return the examples in ``data``, ready for the bundle's graphs.

    Raises:
        BundleError: the bundle's task is unknown here, or lacks what its data needs.
        ConfigError: the file is not what the task needs.
    """
    task, tokens, images = bundle.manifest.task, bundle.manifest.tokens, bundle.manifest.images
    if (task.kind not in _LABELLED or task.n_labels is None) and task.kind not in _UNLABELLED:
        raise BundleError(f"{bundle.folder}: this trainer does not know the task {task.kind!r}, or it lacks labels")
    n_labels = task.n_labels if task.kind in _LABELLED else None
    if images is not None and n_labels is not None:
        return read_images(data, images, n_labels=n_labels, max_examples=max_examples)
    if tokens is None:
        raise BundleError(f"{bundle.folder}: the task {task.kind!r} needs a tokenizer")
    return tokenise(
        read_examples(data, n_labels=n_labels, max_examples=max_examples),
        tokenizer_file=bundle.path(tokens.file),
        pad_id=tokens.pad_id,
        max_tokens=min(max_tokens, tokens.max_tokens),
    )


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
        BundleError: the graph gives neither logits nor token losses.
    """
    if "logits" in outputs:
        logits, labels = outputs["logits"].astype(np.float64), batch["labels"]  # [batch, n_labels], [batch]
        n_correct = int((logits.argmax(axis=1) == labels).sum())
        return Scores(len(labels), n_correct, float(_cross_entropy(logits, labels).sum()))
    if {"losses", "hits"} <= outputs.keys():
        n_tokens = int(batch["attention_mask"][:, 1:].sum())
        return Scores(n_tokens, int(outputs["hits"].sum()), float(outputs["losses"].sum(dtype=np.float64)))
    raise BundleError(f"the evaluation graph gives {', '.join(outputs)}; expected logits, or losses and hits")


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)  # [batch, n_labels]
    log_sum = np.log(np.exp(shifted).sum(axis=1))  # [batch]
    picked: NDArray[np.float64] = log_sum - shifted[np.arange(len(labels)), labels]
    return picked
