"""Prefix tuning: learned keys and values that every token attends to, in every layer.

Laws: nothing before the attention is touched, so positions, rotations and masks of the text stay as they were; the
model's own attention function does the work, with longer keys and values. Works in every family whose attention is
called through transformers' interface, texts and pictures alike.

Source: Li & Liang 2021, arXiv:2101.00190, section 4. Departures: the keys and values themselves are trained, without
the network that makes them there (as in Liu et al. 2021, arXiv:2110.07602, for all layers); they begin as small noise.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from models.family import Family
from protocol.errors import ConfigError

__all__ = ["PREFIXES", "add_prefix"]

KEY, VALUE = "prefix_key", "prefix_value"
PREFIXES = (f".{KEY}", f".{VALUE}")  # how the names of its parameters end
SPREAD = 0.02  # the initializer range of every family here
ATTENTION = "edgefold-prefix"  # its name in transformers' table


def add_prefix(model: PreTrainedModel, family: Family, *, n_virtual: int) -> None:
    """Give every attention of ``model`` ``n_virtual`` keys and values, trainable, drawn from torch's generator.

    Raises:
        ConfigError: the family's attention is not called through transformers' interface.
    """
    if family.attention is None:
        message = f"prefix: the attention of the {family.name} family is code of its own, which takes no further keys"
        raise ConfigError(message)
    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
    model.set_attn_implementation(ATTENTION)
    for name, module in list(model.named_modules()):
        if family.attention.search(name):
            width = _key_width(module)
            for part in (KEY, VALUE):
                module.register_parameter(part, nn.Parameter(SPREAD * torch.randn(n_virtual, width)))


def _key_width(module: nn.Module) -> int:
    """Return the width of a token's key, of all heads that have one of their own."""
    config: Any = module.config
    n_heads: int = config.num_attention_heads
    head_width: int = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    return head_width * (getattr(config, "num_key_value_heads", None) or n_heads)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **options: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor | None]:
    """Attend to prefix and text: query [batch, head, seq, width], key and value [batch, kv_head, seq, width]."""
    own: Any = sys.modules[type(module).__module__].eager_attention_forward
    if hasattr(module, KEY):
        key = torch.cat([_split(getattr(module, KEY), key), key], dim=2)  # [batch, kv_head, n_virtual + seq, width]
        value = torch.cat([_split(getattr(module, VALUE), value), value], dim=2)
        if mask is not None:
            mask = functional.pad(mask, (getattr(module, KEY).shape[0], 0))  # zero: nothing is taken off their scores
    result: tuple[Tensor, Tensor | None] = own(module, query, key, value, mask, **options)
    return result


def _split(prefix: Tensor, like: Tensor) -> Tensor:
    """Return ``prefix`` [n_virtual, kv_head x width] as [batch, kv_head, n_virtual, width]."""
    n_examples, n_heads, _, width = like.shape
    heads = prefix.reshape(-1, n_heads, width).transpose(0, 1)  # [kv_head, n_virtual, width]
    return heads.unsqueeze(0).expand(n_examples, -1, -1, -1)
