"""Dropout by masks from outside: at every place of the model, and the same as torch's own where the masks are."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from export.adapt import Options, adapt
from export.load import load
from models.dropout import Dropped, places
from models.tiny import TINY, write_tiny
from protocol.dropout import AxisFacts, mask_name
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

BATCH = AxisFacts(batch=1)


def adapted(name: str, folder: Path, options: Options):  # noqa: ANN201 - an ``Adapted``
    warnings.simplefilter("ignore")  # pytest puts the filters back
    write_tiny(name, folder / name)
    return adapt(load(str(folder / name), is_text=options.is_text), options)


def test_the_places_of_an_encoder_are_those_of_its_architecture_and_before_each_pair(tmp_path: Path) -> None:
    one = adapted("bert", tmp_path, Options(n_labels=3, rank=2, max_tokens=40, dropout=0.1))
    assert one.inputs.dropout is not None
    # Embeddings; query, value, shares, attention's and feed-forward's output in each of two layers; the head.
    assert len(one.inputs.dropout.shapes) == 1 + 2 * 5 + 1
    seq, width = AxisFacts(seq=1), AxisFacts(constant=32)
    assert one.inputs.dropout.shapes[0] == (BATCH, seq, width)
    assert (BATCH, AxisFacts(constant=4), seq, seq) in one.inputs.dropout.shapes
    assert one.inputs.dropout.shapes[-1] == (BATCH, width)


def test_a_prefix_makes_attention_longer_by_a_constant(tmp_path: Path) -> None:
    options = Options(task="causal-lm", adapter="prefix", n_virtual=3, max_tokens=40, dropout=0.2)
    one = adapted("gpt2", tmp_path, options)
    assert one.inputs.dropout is not None
    longer = AxisFacts(constant=3, seq=1)
    assert (BATCH, AxisFacts(constant=4), AxisFacts(seq=1), longer) in one.inputs.dropout.shapes


class Recorded(TorchFunctionMode):
    """Does torch's own dropout, and remembers what was kept."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.kept = rate, []

    def __torch_function__(self, func, types, args=(), kwargs=None) -> object:  # noqa: ANN001
        if func is not functional.dropout:
            return func(*args, **(kwargs or {}))
        ones: Tensor = functional.dropout(torch.ones_like(args[0]), self.rate, training=True)
        self.kept.append((ones > 0).to(torch.uint8))
        return args[0] * ones


def test_with_torchs_own_masks_the_logits_are_those_of_torchs_own_dropout(tmp_path: Path) -> None:
    one = adapted("vit", tmp_path, Options(task="image-classification", n_labels=2, rank=2, dropout=0.3))
    facts, task = one.inputs.dropout, one.task
    assert facts is not None
    inputs = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), Recorded(facts.rate) as recorded:
        torch.manual_seed(0)
        expected = task.wrap(one.model)(*inputs)
    assert [tuple(axis.length(n_examples=4, n_tokens=0) for axis in shape) for shape in facts.shapes] == [
        tuple(mask.shape) for mask in recorded.kept
    ]
    with torch.no_grad():
        actual = Dropped(task.wrap(one.model), facts, n_inputs=1)(*inputs, *recorded.kept)
        plain = task.wrap(one.model)(*inputs)
    assert torch.allclose(actual, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(actual, plain, rtol=1e-2)
    assert mask_name(0) == "keep_0"


def test_a_model_without_a_place_is_refused(tmp_path: Path) -> None:
    one = adapted("fracast", tmp_path, Options(task="quantile-forecasting", adapter="bitfit"))
    assert TINY["fracast"].task == "quantile-forecasting"
    with pytest.raises(ConfigError, match="no dropout"):
        places(one.model, one.task, rate=0.1)


@pytest.mark.parametrize("rate", [-0.1, 0.0001, 0.95, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="--dropout"):
        Options(n_labels=2, dropout=rate)
