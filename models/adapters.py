"""Adapters: which parameters of a task model are trained, in which order, and what each is called.

Laws: the order of the trainables is the order of the flat vector, and it is the model's own parameter order. Names are
the model's, without peft's wrappers, and do not change with peft's version. peft is used here and nowhere else.

Source: Hu et al. 2021, arXiv:2106.09685: W x + (alpha / rank) B A x, A drawn at random, B zero, so that a new adapter
changes nothing; beside it the task head is trained in full, as in the paper's GLUE runs.
"""

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.family import Family
from protocol.errors import ConfigError

__all__ = ["Role", "Trainable", "add_lora", "flatten", "named_trainables", "trainables"]

Role = Literal["lora_A", "lora_B", "head"]
_LORA = re.compile(r"\.(lora_A|lora_B)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """One trained tensor of the model."""

    parameter: str  # its name in the wrapped model's ``named_parameters``
    name: str  # its lasting name in the adapter's layout
    shape: tuple[int, ...]
    role: Role
    layer: int | None
    scale: float  # alpha / rank for the LoRA pair, 1 elsewhere

    @property
    def n_params(self) -> int:
        """Return the number of values that the tensor holds."""
        return math.prod(self.shape)


def add_lora(
    model: PreTrainedModel, family: Family, *, rank: int, alpha: float, targets: Sequence[str], seed: int
) -> nn.Module:
    """Return ``model`` with a LoRA pair on every target layer and its head trainable; the rest is frozen.

    Raises:
        ConfigError: a target names no layer of the model.
    """
    linear = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    unknown = sorted(set(targets) - linear)
    if unknown:
        message = f"no linear layer is called {', '.join(unknown)}; there are: {', '.join(sorted(linear))}"
        raise ConfigError(message)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it by r; a float is as good as the int it declares
        lora_dropout=0.0,
        target_modules=list(targets),
        modules_to_save=[family.head],
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers warns of its own renamed flag
        torch.manual_seed(seed)
        return get_peft_model(model, config).eval()


def trainables(model: nn.Module, family: Family, *, scale: float) -> tuple[Trainable, ...]:
    """Return what ``add_lora`` left trainable, in the model's parameter order; ``scale`` is alpha / rank."""
    found = []
    for parameter, value in model.named_parameters():
        if not value.requires_grad:
            continue
        name = _lasting_name(parameter, family)
        lora = _LORA.search(name)
        found.append(
            Trainable(
                parameter=parameter,
                name=name,
                shape=tuple(value.shape),
                role="head" if lora is None else "lora_A" if lora.group(1) == "lora_A" else "lora_B",
                layer=family.layer_of(name),
                scale=1.0 if lora is None else scale,
            )
        )
    return tuple(found)


def named_trainables(theta: Tensor, layout: Sequence[Trainable]) -> dict[str, Tensor]:
    """Return views of the flat vector ``theta`` [n_params] as the model's parameters, by their names in the model."""
    pieces = torch.split(theta, [t.n_params for t in layout])
    return {t.parameter: piece.reshape(t.shape) for t, piece in zip(layout, pieces, strict=True)}


def flatten(model: nn.Module, layout: Sequence[Trainable]) -> Tensor:
    """Return the trainables' values as one new float32 vector [n_params], in the layout's order."""
    parameters = dict(model.named_parameters())
    return torch.cat([parameters[t.parameter].detach().reshape(-1) for t in layout]).clone()


def _lasting_name(parameter: str, family: Family) -> str:
    name = re.sub(r"^base_model\.model\.", "", parameter)
    name = re.sub(rf"^{re.escape(family.backbone)}\.", "", name)
    name = name.replace(".modules_to_save.default", "")
    return re.sub(r"\.(lora_A|lora_B)\.default\.weight$", r".\1", name)
