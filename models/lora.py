"""LoRA: a pair of thin matrices beside each target layer. peft is used here and nowhere else.

Source: Hu et al. 2021, arXiv:2106.09685: W x + (alpha / rank) B A x, A drawn at random, B zero, so that a new adapter
changes nothing. rsLoRA, Kalajdzievski 2023, arXiv:2312.03732: alpha / sqrt(rank), so that a larger rank does not learn
less.
"""

import math
import warnings
from collections.abc import Sequence

from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from protocol.errors import ConfigError

__all__ = ["add_lora", "lora_scale"]


def add_lora(
    model: nn.Module, *, rank: int, alpha: float, rslora: bool, targets: Sequence[str], dropout: float = 0.0
) -> None:
    """Put a LoRA pair on every target layer and freeze the rest; A is drawn from torch's generator.

    With ``dropout`` each pair has one before it, which drops nothing in evaluation mode.

    Raises:
        ConfigError: a target names no layer of the model.
    """
    linear = {n.rsplit(".", 1)[-1]: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    unknown = sorted(set(targets) - linear.keys())
    if unknown:
        message = f"no linear layer is called {', '.join(unknown)}; there are: {', '.join(sorted(linear))}"
        raise ConfigError(message)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it by r; a float is as good as the int it declares
        lora_dropout=dropout,
        use_rslora=rslora,
        target_modules=list(targets),
        fan_in_fan_out=any(isinstance(linear[name], Conv1D) for name in targets),  # GPT-2 stores W transposed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns of its own renamed flag, peft of layers of either kind
        inject_adapter_in_model(config, model)


def lora_scale(*, rank: int, alpha: float, rslora: bool) -> float:
    """Return the factor of B A x."""
    return alpha / (math.sqrt(rank) if rslora else rank)
