"""The bounds hold for every honest device, also in the worst case, and are not much wider than needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.bounds import MAX_NORM_WITHOUT_CLIP, max_message_bytes, max_update_norm
from protocol import codec
from protocol.plan import Codec, Optimizer, Plan

N = 512
CODECS = [Codec(name="float32"), Codec(name="float16"), Codec(block=16), Codec(block=64), Codec(block=65536)]


def plan_of(one: Codec, clip: float | None = 1.0) -> Plan:
    return Plan(optimizer=Optimizer(), codec=one, clip_update_norm=clip)


@pytest.mark.parametrize("one", CODECS, ids=lambda c: f"{c.name}-{c.block}")
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.0, 1.0, 3.0]), clip=st.sampled_from([1e-3, 1.0, 50.0]))
def test_a_clipped_update_with_error_feedback_stays_within_the_bound(
    one: Codec, seed: int, spread: float, clip: float
) -> None:
    rng = np.random.default_rng(seed)
    residual = np.zeros(N, np.float32)
    for _ in range(5):
        delta = (rng.normal(0, 1, N) * np.exp(spread * rng.normal(0, 1, N))).astype(np.float32)
        delta *= np.float32(clip) / np.linalg.norm(delta)
        decoded = codec.decode(codec.encode(delta + residual, one), n_values=N)
        residual = delta + residual - decoded
        assert np.linalg.norm(decoded.astype(np.float64)) <= max_update_norm(plan_of(one, clip), N)


def test_the_worst_block_stays_within_the_bound() -> None:
    block = np.full(N, 0.499 / 127, np.float32)  # just below what rounds to the first level
    block[0] = 1.0
    one = Codec(block=N)
    block /= np.linalg.norm(block)
    error = block - codec.decode(codec.encode(block, one), n_values=N)
    decoded = codec.decode(codec.encode(block + error, one), n_values=N)
    assert np.linalg.norm(decoded) <= max_update_norm(plan_of(one), N)


def test_the_bound_of_the_default_codec_is_7_percent_above_the_clip() -> None:
    assert 1.06 < max_update_norm(plan_of(Codec(block=64)), 10**6) < 1.07


def test_without_a_clip_the_bound_is_what_keeps_float32_finite() -> None:
    assert max_update_norm(plan_of(Codec(), None), N) == MAX_NORM_WITHOUT_CLIP


@pytest.mark.parametrize("one", CODECS, ids=lambda c: f"{c.name}-{c.block}")
def test_an_int8_message_is_far_smaller_than_a_float32_one(one: Codec) -> None:
    largest = max_message_bytes(plan_of(Codec(name="float32")), 10**6)
    assert max_message_bytes(plan_of(one), 10**6) <= largest
    assert max_message_bytes(plan_of(Codec()), 10**6) < 0.3 * largest
