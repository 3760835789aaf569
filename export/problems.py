"""The training steps over which a graph is compared with PyTorch: made of a seed, the same on every machine.

Laws: integer arithmetic on the bits of a PCG64 stream alone (numpy promises those, not the methods built on them), so
that a device makes the problem again that the exporter made. No torch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host.dropout_masks import keep_masks
from protocol.bundle import CONTRASTIVE, IGNORED, ImageFacts, SeriesFacts
from protocol.dropout import DropoutFacts
from protocol.layout import Layout

__all__ = ["Batch", "Inputs", "Problem", "make_problem"]

Batch = dict[str, NDArray[Any]]

N_STEPS = 20  # the moments have forgotten their start by then, and the first steps' size hides nothing
NOISE = 0.02  # size of the perturbation that makes LoRA's B not zero, as the model's own initializer range
LEARNING_RATE = 1e-3
# Where every weight of a model is trained, steps are smaller, as people take them. With steps of 1e-3 and noise on the
# pretrained weights PyTorch does not agree with itself: of MiniLM its float32 is 2.5e-3 away from its float64 after 20
# steps; with these it is 1e-4 (and 8e-4 with 1e-5, where a step is lost in the rounding of a weight).
LEARNING_RATE_OF_ALL = 1e-4
# [batch, seq]: one example, one token, odd sizes, more than one row tile of a kernel, the longest (-1). Repeated.
SHAPES = ((8, 24), (1, 9), (5, 17), (3, 1), (16, 33), (1, 1), (2, -1), (7, 12))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a task's batches are made of; what is None does not occur in them."""

    kind: str = "text-classification"  # the task's
    vocabulary: int | None = None
    max_tokens: int | None = None
    images: ImageFacts | None = None
    series: SeriesFacts | None = None
    n_labels: int | None = None
    dropout: DropoutFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The steps to take."""

    theta: NDArray[np.float32]  # [n_params]
    batches: tuple[Batch, ...]
    learning_rate: float


def make_problem(
    theta: NDArray[np.float32], layout: Layout, inputs: Inputs, *, seed: int, n_steps: int = N_STEPS
) -> Problem:
    """Return the steps to take from a perturbed ``theta``; the same for the same arguments on every machine.

    Pretrained weights are not perturbed: they are no zeros that could hide a wrong formula.
    """
    draw = _Draws(seed)
    noise = (draw.integers(2001, theta.size) - 1000) * np.float32(NOISE / 1000)  # [n_params], uniform
    pretrained = [slot for slot in layout.tensors if slot.role == "base"]
    for slot in pretrained:
        noise[slot.offset : slot.offset + slot.n_values] = 0
    start = (theta + noise).astype(np.float32)
    batches = tuple(_batch(draw, *SHAPES[step % len(SHAPES)], inputs) for step in range(n_steps))
    return Problem(theta=start, batches=batches, learning_rate=LEARNING_RATE_OF_ALL if pretrained else LEARNING_RATE)


class _Draws:
    """Integers from a PCG64 stream."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def integers(self, below: int, n: int) -> NDArray[np.int64]:
        """Return n integers of [0, below); the bias of the remainder is below 2^-40 for every size we use."""
        raw: NDArray[np.uint64] = np.atleast_1d(self._bits.random_raw(n))
        return (raw % np.uint64(below)).astype(np.int64)


def _batch(draw: _Draws, n_examples: int, n_tokens: int, inputs: Inputs) -> Batch:
    if inputs.kind in CONTRASTIVE:
        n_examples = max(
            n_examples, 2
        )  # a lone example has nobody to be told from, and a loss of zero compares nothing
    batch: Batch = {}
    if inputs.vocabulary is not None and inputs.max_tokens is not None:
        longest = inputs.max_tokens if n_tokens < 0 else min(n_tokens, inputs.max_tokens)
        if inputs.kind == "causal-lm":
            longest = max(longest, 2)  # a text of one token has no next token, and a loss of zero compares nothing
        n_texts = 2 if inputs.kind == "sentence-embedding" else 1
        batch |= _texts(draw, n_examples * n_texts, longest, inputs.vocabulary)
        if n_texts > 1:
            batch = {name: rows.reshape(n_examples, n_texts, longest) for name, rows in batch.items()}
    if inputs.images is not None:
        shape = (n_examples, inputs.images.channels, inputs.images.height, inputs.images.width)
        levels = draw.integers(256, int(np.prod(shape))).reshape(shape)  # [batch, channel, height, width]
        batch["pixel_values"] = (levels.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
    if inputs.series is not None:
        batch |= _windows(draw, n_examples, inputs.series)
    if inputs.n_labels is not None and inputs.kind == "token-classification":
        mask = batch["attention_mask"]
        labels = draw.integers(inputs.n_labels, mask.size).reshape(mask.shape)  # [batch, seq]
        batch["labels"] = np.where(mask > 0, labels, IGNORED)
    elif inputs.n_labels is not None:
        batch["labels"] = draw.integers(inputs.n_labels, n_examples)
    if inputs.dropout is not None:
        n_tokens = batch["attention_mask"].shape[-1] if "attention_mask" in batch else 0
        seed = int(draw.integers(1 << 40, 1)[0])
        batch |= keep_masks(inputs.dropout, n_examples=n_examples, n_tokens=n_tokens, seed=seed)
    return batch


def _texts(draw: _Draws, n_texts: int, longest: int, vocabulary: int) -> Batch:
    lengths = 1 + draw.integers(longest, n_texts)  # [batch]
    lengths[0] = longest  # a batch is padded to its own longest
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)  # [batch, seq]
    ids = draw.integers(vocabulary, n_texts * longest).reshape(n_texts, longest)  # [batch, seq]
    return {"input_ids": ids * mask, "attention_mask": mask}


def _windows(draw: _Draws, n_examples: int, series: SeriesFacts) -> Batch:
    """Return a saw of some period with noise on it, a period and a size for each example, in exact fractions."""
    n_steps = series.context + series.horizon
    periods = 2 + draw.integers(series.context, n_examples)[:, None, None]  # [batch, 1, 1]
    noise = draw.integers(256, n_examples * n_steps * series.channels).reshape(n_examples, n_steps, series.channels)
    saw = (np.arange(n_steps)[:, None] % periods) * 256  # [batch, time, 1]
    values = (saw + noise).astype(np.float32) / np.float32(256)  # [batch, time, channel]
    return {"series": values[:, : series.context], "future": values[:, series.context :]}
