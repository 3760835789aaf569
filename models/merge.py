"""Folds an adapter into the weights that it stands beside, so that what comes out is an ordinary Hugging Face model.

LoRA: W + scale B A. IA3: a factor on a layer's output scales the rows of W and the bias, one on its input the columns.
What bitfit, a head or full training changed is in the weights already. Laws: the adapted model is only read; the result
is exact but for one rounding to float32. A soft prompt is input and not weight: it cannot be folded in.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1 (no latency at inference); Liu et al. 2022, arXiv:2205.05638, 3.3.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from models.family import Family
from models.ia3 import FACTORS

__all__ = ["fold_into"]


def fold_into(plain: PreTrainedModel, adapted: nn.Module, family: Family) -> None:
    """Give ``plain``, the same model without an adapter, the weights with which it computes what ``adapted`` does."""
    trained = dict(adapted.named_parameters()) | dict(adapted.named_buffers())
    with torch.no_grad():
        for name, value in (*plain.named_parameters(), *plain.named_buffers()):
            layer, _, leaf = name.rpartition(".")
            value.copy_(trained.get(name, trained.get(f"{layer}.base_layer.{leaf}", value)))
        for name, layer in plain.named_modules():
            if isinstance(layer, (nn.Linear, Conv1D)):
                _fold(layer, adapted.get_submodule(name), name, family)


def _fold(layer: Any, adapted: Any, name: str, family: Family) -> None:  # noqa: ANN401 - Linear or Conv1D, and peft's
    wrapped = getattr(adapted, "base_layer", None)
    if wrapped is not None:
        _scale(layer, getattr(wrapped, FACTORS, None), name, family)
        layer.weight += adapted.get_delta_weight("default")
    _scale(layer, getattr(adapted, FACTORS, None), name, family)


def _scale(layer: Any, factors: Tensor | None, name: str, family: Family) -> None:  # noqa: ANN401 - Linear or Conv1D
    if factors is None:
        return
    is_output = family.ia3_outputs.search(name) is not None
    rows_are_outputs = isinstance(layer, nn.Linear)  # weight [out, in]; Conv1D has [in, out]
    layer.weight *= factors[:, None] if is_output == rows_are_outputs else factors[None, :]
    if is_output and layer.bias is not None:
        layer.bias *= factors
