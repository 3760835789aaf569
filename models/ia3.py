"""IA3: one learned factor for each key, value and feed-forward channel.

Source: Liu et al. 2022, arXiv:2205.05638, section 3.3: softmax(Q (l_k * K)^T / sqrt d) (l_v * V) and
W_2 (l_ff * act(W_1 x)), the factors begin at one, so that a new adapter changes nothing.
Departure: where queries, keys and values come out of one layer (GPT-2), all of its outputs are scaled, as peft does.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from models.family import Family
from protocol.errors import ConfigError

__all__ = ["FACTORS", "add_ia3"]

FACTORS = "ia3"  # the parameter's name in the layer that it belongs to


def add_ia3(model: nn.Module, family: Family) -> None:
    """Give the family's key, value and second feed-forward layers their factors, trainable.

    Raises:
        ConfigError: the model has no such layers.
    """
    n_layers = 0
    for name, module in model.named_modules():
        plain = getattr(module, "base_layer", module)  # below a LoRA pair
        if not isinstance(plain, (nn.Linear, Conv1D)):
            continue
        n_in, n_out = plain.weight.shape if isinstance(plain, Conv1D) else reversed(plain.weight.shape)
        if family.ia3_outputs.search(name):
            module.register_parameter(FACTORS, nn.Parameter(torch.ones(n_out)))
            module.register_forward_hook(_scale_output)
        elif family.ia3_inputs.search(name):
            module.register_parameter(FACTORS, nn.Parameter(torch.ones(n_in)))
            module.register_forward_pre_hook(_scale_input)
        else:
            continue
        n_layers += 1
    if not n_layers:
        message = f"ia3: the {family.name} model has none of the layers that IA3 scales"
        raise ConfigError(message)


def _scale_output(module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    factors: Tensor = getattr(module, FACTORS)  # [n_out]
    return output * factors


def _scale_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    factors: Tensor = getattr(module, FACTORS)  # [n_in]
    return (inputs[0] * factors, *inputs[1:])
