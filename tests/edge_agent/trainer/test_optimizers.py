"""The optimisers against a slow float64 reference written from the papers, one value at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.trainer.optimizers import clip_norm, make_optimizer
from protocol.plan import Optimizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_PARAMS = 50
N_STEPS = 40


def reference_adamw(theta: list[float], gradients: list[list[float]], s: Optimizer) -> list[float]:
    """Loshchilov and Hutter 2019, algorithm 2, with the decay times the learning rate."""
    m, v = [0.0] * len(theta), [0.0] * len(theta)
    for t, gradient in enumerate(gradients, start=1):
        for i, g in enumerate(gradient):
            m[i] = s.beta1 * m[i] + (1 - s.beta1) * g
            v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g
            m_hat, v_hat = m[i] / (1 - s.beta1**t), v[i] / (1 - s.beta2**t)
            decay = s.learning_rate * s.weight_decay * theta[i]
            theta[i] -= s.learning_rate * m_hat / (math.sqrt(v_hat) + s.epsilon) + decay
    return theta


def reference_sgd(theta: list[float], gradients: list[list[float]], s: Optimizer) -> list[float]:
    """Heavy ball with L2 decay inside the gradient."""
    m = [0.0] * len(theta)
    for gradient in gradients:
        for i, g in enumerate(gradient):
            m[i] = s.beta1 * m[i] + g + s.weight_decay * theta[i]
            theta[i] -= s.learning_rate * m[i]
    return theta


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.0, 0.9)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_forty_steps_agree_with_the_reference(
    name: Any, weight_decay: float, beta1: float, beta2: float, scale: float
) -> None:
    rng = np.random.default_rng(3)
    theta = rng.normal(size=N_PARAMS).astype(np.float32)
    gradients = (scale * rng.normal(size=(N_STEPS, N_PARAMS))).astype(np.float32)
    learning_rate = 1e-2 if name == "adamw" else 1e-2 / max(scale, 1)
    settings = Optimizer(name=name, learning_rate=learning_rate, weight_decay=weight_decay, beta1=beta1, beta2=beta2)
    reference = {"adamw": reference_adamw, "sgd": reference_sgd}[name]
    expected = np.array(reference(theta.tolist(), gradients.tolist(), settings))
    optimizer = make_optimizer(settings, N_PARAMS)
    for gradient in gradients:
        optimizer.step(theta, gradient)
    assert theta.dtype == np.float32
    # Each step rounds to float32 a few times; measured 1.2e-6 over forty of them.
    np.testing.assert_allclose(theta, expected, rtol=2e-5, atol=1e-5)


def test_the_first_step_of_adam_is_the_learning_rate_against_the_sign() -> None:
    theta = np.zeros(3, np.float32)
    make_optimizer(Optimizer(learning_rate=0.01, weight_decay=0.0), 3).step(theta, np.array([5, -1e-3, 0], np.float32))
    np.testing.assert_allclose(theta, [-0.01, 0.01, 0], rtol=1e-4)


def test_epsilon_matters_where_gradients_are_small() -> None:
    theta = np.zeros(1, np.float32)
    settings = Optimizer(learning_rate=0.01, weight_decay=0.0, epsilon=1e-3)
    make_optimizer(settings, 1).step(theta, np.array([1e-3], np.float32))
    np.testing.assert_allclose(theta, [-0.005], rtol=1e-4)


def test_without_a_gradient_only_the_decay_moves() -> None:
    for name in ("adamw", "sgd"):
        theta = np.ones(2, np.float32)
        settings = Optimizer(name=name, learning_rate=0.1, weight_decay=0.5, beta1=0.0)  # type: ignore[arg-type]
        make_optimizer(settings, 2).step(theta, np.zeros(2, np.float32))
        np.testing.assert_allclose(theta, 0.95)


def test_sgd_with_momentum_sums_a_geometric_series() -> None:
    theta = np.zeros(1, np.float32)
    optimizer = make_optimizer(Optimizer(name="sgd", learning_rate=1.0, weight_decay=0.0, beta1=0.5), 1)
    for _ in range(3):
        optimizer.step(theta, np.ones(1, np.float32))
    np.testing.assert_allclose(theta, -(1 + 1.5 + 1.75))


def test_a_step_leaves_the_gradient_alone() -> None:
    for name in ("adamw", "sgd"):
        gradient = np.ones(2, np.float32)
        settings = Optimizer(name=name)  # type: ignore[arg-type]
        make_optimizer(settings, 2).step(np.zeros(2, np.float32), gradient)
        np.testing.assert_array_equal(gradient, 1)


def test_a_vector_within_the_limit_is_not_copied() -> None:
    vector = np.array([3, 4], np.float32)
    assert clip_norm(vector, None) is vector
    assert clip_norm(vector, 5.0) is vector


def test_a_longer_vector_keeps_its_direction_and_gets_the_limit_as_its_norm() -> None:
    np.testing.assert_allclose(clip_norm(np.array([3, 4], np.float32), 1.0), [0.6, 0.8], rtol=1e-6)


@given(
    st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=30),
    st.floats(1e-3, 1e9),
)
def test_no_vector_is_longer_than_the_limit_after_clipping(values: list[float], limit: float) -> None:
    clipped = clip_norm(np.array(values, np.float32), limit)
    assert clipped.dtype == np.float32
    assert np.linalg.norm(clipped.astype(np.float64)) <= limit * (1 + 1e-6)


def test_the_norm_of_a_huge_vector_does_not_overflow() -> None:
    vector: NDArray[np.float32] = np.full(4, 3e38, np.float32)
    np.testing.assert_allclose(clip_norm(vector, 2.0), 1.0, rtol=1e-5)
