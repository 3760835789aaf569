"""A batch in pieces has the loss and the gradient of the whole."""

from typing import Any

import numpy as np
import pytest

from edge_agent.trainer.accumulation import loss_and_gradient
from protocol.errors import ConfigError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(11, 5))


def _mean_over_examples(theta: np.ndarray, batch: Any) -> tuple[float, np.ndarray]:
    error = batch["x"] @ theta - 1.0  # [batch]
    return float((error**2).mean()), (2 * batch["x"].T @ error / len(error)).astype(np.float32)


def _mean_over_tokens(theta: np.ndarray, batch: Any) -> tuple[float, np.ndarray]:
    """Loss of a token: (its value * theta[0])^2, over those that the mask lets count."""
    mask = batch["attention_mask"][:, 1:].astype(np.float64)
    values = batch["x"][:, 1:]
    n_tokens = max(mask.sum(), 1.0)
    square = float((values**2 * mask).sum() / n_tokens)
    return square * float(theta[0]) ** 2, np.array([2 * square * theta[0], 0, 0, 0, 0], np.float32)


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 10, 11, 100])
def test_the_mean_over_examples_is_that_of_the_whole_batch(micro_batch: int) -> None:
    theta = RNG.normal(size=5).astype(np.float32)
    expected = _mean_over_examples(theta, {"x": X})
    actual = loss_and_gradient(
        _mean_over_examples, theta, {"x": X}, kind="text-classification", micro_batch=micro_batch
    )
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    assert actual[1] == pytest.approx(expected[1], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 3, 5])
def test_texts_count_by_their_tokens_where_the_loss_is_a_mean_over_tokens(micro_batch: int) -> None:
    lengths = np.array([5, 1, 2, 5, 3, 1, 1, 4, 5, 2, 2])
    batch = {"x": X, "attention_mask": (np.arange(5) < lengths[:, None]).astype(np.int64)}
    theta = np.array([0.7, 0, 0, 0, 0], np.float32)
    expected = _mean_over_tokens(theta, batch)
    actual = loss_and_gradient(_mean_over_tokens, theta, batch, kind="causal-lm", micro_batch=micro_batch)
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    assert actual[1] == pytest.approx(expected[1], rel=1e-5)


def test_texts_of_one_token_give_what_the_graph_gives() -> None:
    batch = {"x": X, "attention_mask": np.eye(1, 5, dtype=np.int64).repeat(11, axis=0)}
    theta = np.ones(5, np.float32)
    assert loss_and_gradient(_mean_over_tokens, theta, batch, kind="causal-lm", micro_batch=2)[0] == 0.0


def test_a_loss_that_compares_examples_is_refused() -> None:
    with pytest.raises(ConfigError, match="micro_batch"):
        loss_and_gradient(_mean_over_examples, np.ones(5, np.float32), {"x": X}, kind="contrastive", micro_batch=2)
