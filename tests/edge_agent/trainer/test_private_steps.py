"""One example's part of a step is bounded, the noise is as asked for, and its bits are not the service's choice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_agent.trainer.example_gradients import OneByOne, clipped_points
from edge_agent.trainer.private_steps import PrivateEpochs, refuse_contrastive
from protocol.errors import ConfigError, EngineError
from protocol.per_example import RADIUS
from protocol.plan import Optimizer, Plan, SampleDp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

N_PARAMS = 2000
SGD = Optimizer(name="sgd", learning_rate=1.0, weight_decay=0.0, beta1=0.0)


class Examples:
    """Examples that are their own gradients."""

    def __init__(self, gradients: NDArray[np.float32]) -> None:
        self.gradients = gradients

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.ones(len(self.gradients), np.int64)

    def __len__(self) -> int:
        return len(self.gradients)

    def batch(self, rows: Sequence[int] | NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {"gradients": self.gradients[np.asarray(rows)]}


class MeanEngine:
    """Answers the mean of a batch's gradients, as a graph does."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def loss_and_gradient(
        self, _theta: NDArray[np.float32], batch: Mapping[str, NDArray[Any]]
    ) -> tuple[float, NDArray[np.float32]]:
        self.sizes.append(len(batch["gradients"]))
        return 1.0, batch["gradients"].mean(0)

    def scores(self, _theta: NDArray[np.float32], _batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        return {}


def moved(gradients: NDArray[np.float32], *, dp: SampleDp, batch_size: int, seed: bytes | None = None) -> NDArray[Any]:
    """Return the descent of one epoch from zero, with a learning rate of one."""
    plan = Plan(batch_size=batch_size, optimizer=SGD, dp=dp)
    data = Examples(gradients)
    epochs = PrivateEpochs(plan, dp, data, lambda _: None, seed=seed)
    return -epochs.run(OneByOne(MeanEngine(), data, clip=dp.clip), np.zeros(N_PARAMS, np.float32)).astype(np.float64)


def drawn(n: int, scale: float = 1.0) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(0, scale, (n, N_PARAMS)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1.0, 1e12, 1e38])
@pytest.mark.parametrize("clip", [1e-6, 0.3, 1e6])
def test_whatever_an_example_is_its_part_of_the_sum_is_at_most_the_clip(scale: float, clip: float) -> None:
    others = np.zeros(N_PARAMS, np.int64)
    for gradient in drawn(3):
        others += clipped_points(gradient, clip=clip)
    hostile = np.clip(drawn(1)[0] * np.float64(scale), -3e38, 3e38).astype(np.float32)
    change = (others + clipped_points(hostile, clip=clip)) - others  # exact: the sum is of integers
    assert math.isqrt(int(np.square(change).sum())) <= RADIUS
    spike = np.zeros(N_PARAMS, np.float32)
    spike[7] = np.finfo(np.float32).max
    assert int(clipped_points(spike, clip=clip)[7]) in {RADIUS, RADIUS - 1}


def test_a_short_gradient_is_kept_but_for_the_grid() -> None:
    gradient = drawn(1, scale=1e-3)[0]
    points = clipped_points(gradient, clip=1.0)
    assert np.abs(points / RADIUS - gradient).max() < 1 / RADIUS


def test_a_step_without_noise_to_speak_of_is_the_mean_of_clipped_gradients() -> None:
    gradients = drawn(6)
    gradients[1] *= 1e-3  # one that is not clipped
    clip = 2.0
    slow = sum(g / max(1.0, float(np.linalg.norm(g)) / clip) for g in gradients.astype(np.float64)) / 6
    noise = 0.05 * clip / 6  # standard deviation of each value
    apart = moved(gradients, dp=SampleDp(clip=clip, noise_multiplier=0.05), batch_size=6) - slow
    assert float(apart.std()) == pytest.approx(noise, rel=0.1)


def test_the_noise_has_the_deviation_that_was_asked_for_whatever_was_drawn() -> None:
    dp = SampleDp(clip=0.5, noise_multiplier=1.5)
    step = moved(np.zeros((8, N_PARAMS), np.float32), dp=dp, batch_size=8)
    assert float(step.std()) == pytest.approx(1.5 * 0.5 / 8, rel=0.1)
    assert abs(float(step.mean())) < 5 * 1.5 * 0.5 / 8 / math.sqrt(N_PARAMS)


def test_an_example_is_taken_by_its_own_coin_and_alone() -> None:
    plan = Plan(epochs=40, batch_size=5, optimizer=SGD)
    dp = SampleDp(clip=1.0, noise_multiplier=1.0)
    engine = MeanEngine()
    data = Examples(np.zeros((50, N_PARAMS), np.float32))
    epochs = PrivateEpochs(plan, dp, data, lambda _: None)
    epochs.run(OneByOne(engine, data, clip=dp.clip), np.zeros(N_PARAMS, np.float32))
    assert epochs.n_steps == 400
    assert set(engine.sizes) == {1}
    # Binomial(50 * 400, 1 / 10): six standard deviations.
    assert abs(len(engine.sizes) - 2000) < 6 * math.sqrt(20_000 * 0.1 * 0.9)


def test_coins_and_noise_do_not_follow_from_the_plans_seed() -> None:
    dp = SampleDp(clip=1.0, noise_multiplier=1.0)
    one, other = (moved(drawn(4), dp=dp, batch_size=2) for _ in range(2))
    assert not np.array_equal(one, other)
    again = [moved(drawn(4), dp=dp, batch_size=2, seed=bytes(32)) for _ in range(2)]
    assert np.array_equal(*again)


def test_a_gradient_that_is_not_finite_ends_the_training() -> None:
    bad = drawn(2)
    bad[1, 0] = np.inf
    with pytest.raises(EngineError, match="not finite"):
        moved(bad, dp=SampleDp(clip=1.0, noise_multiplier=1.0), batch_size=2)


@pytest.mark.parametrize("kind", ["sentence-embedding", "image-text"])
def test_a_task_that_compares_examples_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="compares examples"):
        refuse_contrastive(kind)
    refuse_contrastive("text-classification")
