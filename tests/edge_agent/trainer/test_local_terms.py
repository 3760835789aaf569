"""A strategy's terms on a device, on a quadratic loss whose gradient is theta - target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.trainer.local_terms import LocalTerms, n_work_values
from edge_agent.trainer.optimizers import clip_norm, make_optimizer
from edge_agent.trainer.proximal import with_proximal_term
from protocol import codec
from protocol.layout import Layout, TensorSlot
from protocol.plan import Codec, DeviceTerms, Optimizer, Plan

A = TensorSlot(name="q.lora_A", shape=(4, 3), offset=0, role="lora_A")  # values 0 to 11
B = TensorSlot(name="q.lora_B", shape=(2, 4), offset=12, role="lora_B")  # values 12 to 19
LAYOUT = Layout(tensors=(A, B, TensorSlot(name="head", shape=(5,), offset=20, role="head")))
N = 25
START = np.random.default_rng(1).normal(0, 1, N).astype(np.float32)
TARGET = np.random.default_rng(2).normal(0, 1, N).astype(np.float32)
ZEROS = np.zeros(N, np.float32)
SGD = Optimizer(name="sgd", learning_rate=0.1, beta1=0.0, weight_decay=0.0)


def run(
    terms: DeviceTerms | None, *, received: Any = START, kept: Any = None, n_steps: int = 5, **plan: Any
) -> tuple[LocalTerms, np.ndarray]:
    """Train locally; return the terms and the local adapter."""
    whole = Plan(**{"codec": Codec(name="float32"), **plan, "terms": terms})
    local = LocalTerms(whole, LAYOUT, received=received, kept=kept)
    theta = local.start.copy()
    optimizer = make_optimizer(whole.optimizer, local.n_trained)
    for _ in range(n_steps):
        local.step(optimizer, theta, theta - TARGET)
    return local, theta


def plain_run(plan: Plan, n_steps: int = 5) -> np.ndarray:
    """Local training without any of this module."""
    theta = START.copy()
    optimizer = make_optimizer(plan.optimizer, N)
    for _ in range(n_steps):
        optimizer.step(theta, clip_norm(theta - TARGET, plan.clip_grad_norm))
    return theta


@pytest.mark.parametrize("terms", [None, DeviceTerms(), DeviceTerms(proximal_mu=0.0), DeviceTerms(lora_rank=4)])
@pytest.mark.parametrize("optimizer", [Optimizer(), SGD])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_terms_that_ask_nothing_are_plain_training_bit_for_bit(
    terms: DeviceTerms | None, optimizer: Optimizer, clip: float | None
) -> None:
    _, theta = run(terms, optimizer=optimizer, clip_grad_norm=clip)
    expected = plain_run(Plan(optimizer=optimizer, clip_grad_norm=clip))
    assert theta.tobytes() == expected.tobytes()


def test_the_proximal_term_is_not_zero_after_one_step() -> None:
    anchor, theta = START.copy(), START.copy()
    assert not (with_proximal_term(ZEROS, theta, anchor, 0.5)).any()
    theta -= np.float32(0.1)
    assert np.abs(with_proximal_term(ZEROS, theta, anchor, 0.5)).min() > 0.04


def test_the_anchor_is_not_what_is_trained() -> None:
    """A live reference instead of a clone makes the term zero: then both runs would end in the same place."""
    _, free = run(None, optimizer=SGD)
    _, held = run(DeviceTerms(proximal_mu=1.0), optimizer=SGD)
    assert np.linalg.norm(held - START) < 0.9 * np.linalg.norm(free - START)


def test_a_large_mu_ends_at_the_minimum_of_the_held_loss() -> None:
    _, theta = run(DeviceTerms(proximal_mu=3.0), optimizer=SGD, n_steps=200)
    np.testing.assert_allclose(theta, (TARGET + 3 * START) / 4, atol=1e-5)


@pytest.mark.parametrize("optimizer", [Optimizer(weight_decay=0.5), SGD])
def test_a_frozen_role_keeps_its_bits_and_the_rest_trains_as_if_alone(optimizer: Optimizer) -> None:
    _, theta = run(DeviceTerms(frozen_roles=("lora_A",)), optimizer=optimizer)
    assert theta[:12].tobytes() == START[:12].tobytes()
    np.testing.assert_array_equal(theta[12:], plain_run(Plan(optimizer=optimizer))[12:])


def test_what_is_frozen_or_personal_is_not_in_the_payload() -> None:
    for terms, sent in (
        (DeviceTerms(frozen_roles=("lora_A",)), slice(12, 25)),
        (DeviceTerms(personal_roles=("lora_B", "head")), slice(0, 12)),
    ):
        local, theta = run(terms)
        payload, _ = local.encode(theta, ZEROS, n_steps=5)
        delta = local.delta(theta, ZEROS)
        decoded = codec.decode(payload, n_values=sent.stop - sent.start)
        np.testing.assert_array_equal(decoded, (theta - START)[sent])
        np.testing.assert_array_equal(decoded, delta)


def test_the_residual_of_what_is_not_sent_waits() -> None:
    residual = np.full(N, 0.25, np.float32)
    local, theta = run(DeviceTerms(frozen_roles=("lora_A",)), codec=Codec(name="int8-block"))
    _, after = local.encode(theta, residual, n_steps=5)
    delta = local.delta(theta, residual)
    np.testing.assert_array_equal(after[:12], residual[:12])
    np.testing.assert_allclose(delta, (theta - START)[12:] + 0.25, atol=1e-6)
    assert np.abs(after[12:]).max() < np.abs(delta).max() / 100


def test_a_personal_part_goes_on_where_it_was_and_the_rest_where_the_service_says() -> None:
    terms = DeviceTerms(personal_roles=("lora_B", "head"))
    first, theta = run(terms)
    first.encode(theta, ZEROS, n_steps=5)
    kept = first.keeps(theta)
    second, _ = run(terms, received=START + np.float32(1), kept=kept, n_steps=0)
    np.testing.assert_array_equal(second.start[:12], START[:12] + np.float32(1))
    np.testing.assert_array_equal(second.start[12:], theta[12:])


def test_without_anything_of_its_own_a_device_keeps_nothing() -> None:
    local, theta = run(DeviceTerms(proximal_mu=0.1))
    local.encode(theta, ZEROS, n_steps=5)
    assert local.keeps(theta) is None


def test_beyond_its_rank_a_device_has_zeros_and_leaves_them_so() -> None:
    local, theta = run(DeviceTerms(lora_rank=1), optimizer=Optimizer(weight_decay=0.1))
    beyond = [*range(3, 12), 13, 14, 15, 17, 18, 19]
    assert not theta[beyond].any()
    payload, _ = local.encode(theta, ZEROS, n_steps=5)
    assert codec.decode(payload, n_values=N - len(beyond)).size == 10


@given(seed=st.integers(0, 100), n_steps=st.integers(1, 6))
def test_a_control_variate_becomes_the_mean_gradient(seed: int, n_steps: int) -> None:
    rng = np.random.default_rng(seed)
    own, service = (rng.normal(0, 0.1, N).astype(np.float32) for _ in range(2))
    terms = DeviceTerms(has_controls=True)
    received = np.concatenate([START, service])
    local, theta = run(terms, received=received, kept=own, n_steps=n_steps, optimizer=SGD)
    gradients, y = [], START.astype(np.float64)
    for _ in range(n_steps):
        gradients.append(y - TARGET)
        y = y - 0.1 * (gradients[-1] - own + service)
    np.testing.assert_allclose(theta, y, atol=1e-5)
    payload, _ = local.encode(theta, ZEROS, n_steps=n_steps)
    delta = local.delta(theta, ZEROS)
    values = codec.decode(payload, n_values=2 * N)
    np.testing.assert_array_equal(values[:N], delta)
    np.testing.assert_allclose(own + values[N:], np.mean(gradients, axis=0), atol=1e-4)


def test_the_device_keeps_the_control_that_the_service_decoded() -> None:
    terms = DeviceTerms(has_controls=True)
    received = np.concatenate([START, ZEROS])
    local, theta = run(terms, received=received, optimizer=SGD, codec=Codec(name="int8-block", block=8))
    payload, _ = local.encode(theta, ZEROS, n_steps=5)
    np.testing.assert_array_equal(local.keeps(theta), codec.decode(payload, n_values=2 * N)[N:])


def test_control_variates_come_behind_the_adapter() -> None:
    assert n_work_values(None, LAYOUT) == N
    assert n_work_values(DeviceTerms(has_controls=True), LAYOUT) == 2 * N
    assert n_work_values(DeviceTerms(base_change=True), LAYOUT) == N + 2 * 3
