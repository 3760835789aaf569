"""Adapters: which parameters of a task model are trained, in which order, and what each is called.

An adapter is a sum of parts, ``lora+soft-prompt+head``. The parts are put on in one fixed order, so that the same
recipe and seed give the same adapter however the caller wrote it.

Laws: the order of the trainables is the order of the flat vector, and it is the model's own parameter order. Names are
the model's, without wrappers, and do not change with peft's version. A new head is always trained: its random values
are worth nothing. What no part trains is frozen.

Source: each part's own file; bitfit is Ben Zaken et al. 2021, arXiv:2106.10199: all bias terms, and the head.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.family import Family
from models.ia3 import FACTORS, add_ia3
from models.lora import add_lora, lora_scale
from models.prefix import PREFIXES, add_prefix
from models.soft_prompt import PROMPT, add_soft_prompt
from protocol.errors import ConfigError
from protocol.layout import Role

__all__ = ["PARTS", "Recipe", "Trainable", "add_adapter", "flatten", "named_trainables", "parts_of"]

PARTS = ("lora", "ia3", "bitfit", "full", "soft-prompt", "prefix", "head")
# Pairs that cannot be: the first trains every weight, so the second would train the same thing twice.
_TWICE = tuple(("full", other) for other in ("lora", "ia3", "bitfit"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to make an adapter."""

    parts: tuple[str, ...]  # of PARTS, in that order
    rank: int = 8
    alpha: float = 16.0
    rslora: bool = False
    targets: tuple[str, ...]  # the layers that LoRA adapts
    n_virtual: int = 8  # virtual tokens of the soft prompt, and of the prefix in each layer
    dropout: float = 0.0  # before each LoRA pair, where its masks are given
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """One trained tensor of the model."""

    parameter: str  # its name in the adapted model's ``named_parameters``
    name: str  # its lasting name in the adapter's layout
    shape: tuple[int, ...]
    role: Role
    layer: int | None
    scale: float  # LoRA's factor for its pair, 1 elsewhere

    @property
    def n_params(self) -> int:
        """Return the number of values that the tensor holds."""
        return math.prod(self.shape)


def parts_of(text: str, *, has_head: bool) -> tuple[str, ...]:
    """Return the parts that ``text`` names, such as ``lora+soft-prompt``, with the head if the task has a new one.

    Raises:
        ConfigError: an unknown or repeated part, a head where there is none, or parts that train the same thing twice.
    """
    named = [part.strip() for part in text.split("+")]
    unknown = sorted(set(named) - set(PARTS))
    if unknown:
        message = f"--adapter {text}: no part is called {unknown[0]!r}; there are: {', '.join(PARTS)}, joined by +"
        raise ConfigError(message)
    if len(set(named)) != len(named):
        message = f"--adapter {text}: a part occurs twice"
        raise ConfigError(message)
    if "head" in named and not has_head:
        message = f"--adapter {text}: this task uses the model's own pretrained head; there is no new one to train"
        raise ConfigError(message)
    for whole, part in _TWICE:
        if whole in named and part in named:
            message = f"--adapter {text}: {whole} trains every weight already, {part} would train the same thing twice"
            raise ConfigError(message)
    return tuple(part for part in PARTS if part in named or (part == "head" and has_head))


def add_adapter(model: PreTrainedModel, family: Family, recipe: Recipe) -> tuple[Trainable, ...]:
    """Put the adapter on ``model``, freeze the rest, and return what is trained, in the model's parameter order.

    Raises:
        ConfigError: a part has nothing to train in this model, or a target names no layer of it.
    """
    model.requires_grad_(requires_grad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if "lora" in recipe.parts:
            add_lora(
                model,
                rank=recipe.rank,
                alpha=recipe.alpha,
                rslora=recipe.rslora,
                targets=recipe.targets,
                dropout=recipe.dropout,
            )
        if "ia3" in recipe.parts:
            add_ia3(model, family)
        if "soft-prompt" in recipe.parts:
            add_soft_prompt(model, n_virtual=recipe.n_virtual, after=family.prompt_after)
        if "prefix" in recipe.parts:
            add_prefix(model, family, n_virtual=recipe.n_virtual)
    scale = lora_scale(rank=recipe.rank, alpha=recipe.alpha, rslora=recipe.rslora)
    found = []
    for parameter, value in model.named_parameters():
        name = _lasting_name(parameter, family)
        role = _role(name, family, recipe.parts)
        value.requires_grad_(role is not None)
        if role is not None:
            found.append(
                Trainable(
                    parameter=parameter,
                    name=name,
                    shape=tuple(value.shape),
                    role=role,
                    layer=family.layer_of(name),
                    scale=scale if role in {"lora_A", "lora_B"} else 1.0,
                )
            )
    if "bitfit" in recipe.parts and not any(one.role == "bias" for one in found):
        message = f"bitfit: the {family.name} model has no bias terms to train"
        raise ConfigError(message)
    model.train(mode=False)
    return tuple(found)


def named_trainables(theta: Tensor, layout: Sequence[Trainable]) -> dict[str, Tensor]:
    """Return views of the flat vector ``theta`` [n_params] as the model's parameters, by their names in the model."""
    # Not a split into one: LiteRT's converter knows none.
    pieces = torch.split(theta, [t.n_params for t in layout]) if len(layout) > 1 else (theta,)
    return {t.parameter: piece.reshape(t.shape) for t, piece in zip(layout, pieces, strict=True)}


def flatten(model: nn.Module, layout: Sequence[Trainable]) -> Tensor:
    """Return the trainables' values as one new float32 vector [n_params], in the layout's order."""
    parameters = dict(model.named_parameters())
    return torch.cat([parameters[t.parameter].detach().reshape(-1) for t in layout]).clone()


def _role(name: str, family: Family, parts: tuple[str, ...]) -> Role | None:
    """Return the role of a parameter by its lasting name; None if no part trains it."""
    idle = family.idle_biases is not None and family.idle_biases.search(name) is not None
    rules: tuple[tuple[Role, bool], ...] = (
        ("lora_A", name.endswith(".lora_A")),
        ("lora_B", name.endswith(".lora_B")),
        ("scale", name.endswith(f".{FACTORS}")),
        ("prefix", name.endswith(PREFIXES)),
        ("prompt", name.startswith(f"{PROMPT}.")),
        ("head", name.split(".", 1)[0] in family.heads),
        ("base", "full" in parts and not idle),
        ("bias", "bitfit" in parts and name.endswith(".bias") and not idle),
    )
    return next((role for role, holds in rules if holds), None)


def _lasting_name(parameter: str, family: Family) -> str:
    name = re.sub(rf"^{re.escape(family.backbone)}\.", "", parameter)
    name = name.replace(".base_layer.", ".")
    return re.sub(r"\.(lora_A|lora_B)\.default\.weight$", r".\1", name)
