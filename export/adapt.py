"""Pass: a folder becomes a task model with an adapter, and the adapter a layout and an initial vector.

Laws: deterministic in the folder and the options; refuses before anything long is done.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from export.load import Source
from models import text_classification as task
from models.adapters import Trainable, add_lora, flatten, trainables
from protocol.errors import ConfigError
from protocol.layout import Layout, TensorSlot

__all__ = ["Adapted", "Options", "adapt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller of an export chooses."""

    n_labels: int
    rank: int = 8
    alpha: float = 16.0  # with rank 8 the scale is 2, as in Hu et al.'s released configurations
    targets: tuple[str, ...] = ()  # empty: the family's own
    max_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no adapter can be made of.

        Raises:
            ConfigError: a value is out of its range.
        """
        limits = {"labels": (self.n_labels, 2), "rank": (self.rank, 1), "max-tokens": (self.max_tokens, 2)}
        for name, (value, least) in limits.items():
            if value < least:
                message = f"--{name} is {value}, it must be at least {least}"
                raise ConfigError(message)
        if not self.alpha > 0:
            message = f"--alpha is {self.alpha}, it must be above 0"
            raise ConfigError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A task model with an adapter."""

    model: nn.Module
    family: str
    targets: tuple[str, ...]
    trainables: tuple[Trainable, ...]
    layout: Layout
    theta: NDArray[np.float32]  # [n_params], the initial adapter
    n_parameters: int  # of the base and its head, without the adapter
    vocabulary: int
    pad_id: int


def adapt(source: Source, options: Options) -> Adapted:
    """Return the model of ``source`` with a LoRA adapter and a new head.

    Requires: a folder that ``load`` checked.
    Ensures: ``theta`` in the layout's order; LoRA's B is zero, so the adapter changes nothing before it is trained.

    Raises:
        ConfigError: an unsupported model, an unknown target, or more tokens than the model has positions.
    """
    try:
        model, family = task.build(source.folder, n_labels=options.n_labels, seed=options.seed)
    except (OSError, ValueError, KeyError) as error:
        message = f"{source.name}: not a Hugging Face model folder: {str(error).splitlines()[0][:200]}"
        raise ConfigError(message) from error
    positions = model.config.max_position_embeddings
    if options.max_tokens > positions:
        message = f"--max-tokens is {options.max_tokens}, {source.name} has {positions} positions"
        raise ConfigError(message)
    n_parameters = sum(p.numel() for p in model.parameters())
    targets = options.targets or family.default_targets
    adapted = add_lora(model, family, rank=options.rank, alpha=options.alpha, targets=targets, seed=options.seed)
    parts = trainables(adapted, family, scale=options.alpha / options.rank)
    return Adapted(
        model=adapted,
        family=family.name,
        targets=targets,
        trainables=parts,
        layout=_layout(parts),
        theta=flatten(adapted, parts).numpy(),
        n_parameters=n_parameters,
        vocabulary=model.config.vocab_size,
        pad_id=model.config.pad_token_id or 0,
    )


def _layout(parts: tuple[Trainable, ...]) -> Layout:
    slots, offset = [], 0
    for part in parts:
        slots.append(
            TensorSlot(
                name=part.name, shape=part.shape, offset=offset, role=part.role, layer=part.layer, scale=part.scale
            )
        )
        offset += part.n_params
    return Layout(tensors=tuple(slots))
