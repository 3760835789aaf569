"""Dropout masks: the same on every machine, of the shapes that were asked for, and right in the mean."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from host.dropout_masks import keep_masks, masks_of_step
from protocol.dropout import AxisFacts, DropoutFacts
from protocol.errors import BundleError
from protocol.fields import FieldError, structure

BATCH, SEQ = AxisFacts(batch=1), AxisFacts(seq=1)
FACTS = DropoutFacts(
    rate=0.1, shapes=((BATCH, SEQ, AxisFacts(constant=16)), (BATCH, AxisFacts(constant=2, seq=1), SEQ))
)


def test_masks_have_their_shapes_and_the_bytes_that_they_always_had() -> None:
    masks = keep_masks(FACTS, n_examples=3, n_tokens=5, seed=7)
    assert {name: (one.shape, one.dtype) for name, one in masks.items()} == {
        "keep_0": ((3, 5, 16), np.uint8),
        "keep_1": ((3, 7, 5), np.uint8),
    }
    digest = hashlib.sha256(b"".join(one.tobytes() for one in masks.values())).hexdigest()
    assert digest[:16] == "10a1ca2cde018fbd"


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_a_value_is_dropped_as_often_as_the_rate_says(rate: float) -> None:
    n = 200_000
    facts = DropoutFacts(rate=rate, shapes=((AxisFacts(constant=n),),))
    kept = keep_masks(facts, n_examples=1, n_tokens=1, seed=1)["keep_0"]
    assert set(np.unique(kept).tolist()) == {0, 1}
    assert abs(1 - kept.mean() - rate) < 4 * (rate * (1 - rate) / n) ** 0.5 + 2**-16  # four standard errors


def test_the_masks_of_a_step_depend_on_seed_adapter_and_batch_and_on_nothing_else() -> None:
    theta = np.arange(4, dtype=np.float32)
    ids = np.arange(10).reshape(2, 5)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    first = masks_of_step(FACTS, theta, batch, seed=-3)["keep_0"]
    assert first.shape == (2, 5, 16)
    same = masks_of_step(FACTS, theta.copy(), dict(reversed(batch.items())), seed=-3)["keep_0"]
    assert np.array_equal(first, same)
    others = ((theta + 1, batch, -3), (theta, batch | {"input_ids": ids + 1}, -3), (theta, batch, 4))
    for one_theta, one_batch, seed in others:
        assert not np.array_equal(first, masks_of_step(FACTS, one_theta, one_batch, seed=seed)["keep_0"])


def test_a_mask_that_no_step_could_have_is_refused_before_it_is_made() -> None:
    for length in (AxisFacts(constant=10**9, batch=1000), AxisFacts()):
        with pytest.raises(BundleError, match="dropout"):
            keep_masks(DropoutFacts(rate=0.5, shapes=((length, length),)), n_examples=9, n_tokens=1, seed=0)


def test_what_a_manifest_says_of_dropout_is_bounded() -> None:
    for wrong in ({"rate": 1.0, "shapes": [[{}]]}, {"rate": 0.1, "shapes": []}, {"rate": 0.1, "shapes": [[{"x": 1}]]}):
        with pytest.raises(FieldError):
            structure(DropoutFacts, wrong, lenient_floats=True)
