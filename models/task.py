"""What the exporter must know about one kind of task, as a value; and how a folder becomes its model.

Laws: the model that comes out is deterministic in (folder, n_labels, seed) and is the one that is exported: eager
attention (its backward is made of plain matrix products), dropout 0, evaluation mode. The loss is the one that devices
minimise. This file does not know adapters, ONNX or bundles.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from models.family import Family
from models.rotations import fix_rotations
from protocol.errors import ConfigError

__all__ = ["TEXT_INPUTS", "TEXT_SIZES", "Task", "build", "family_of", "text_example"]

TEXT_INPUTS = ("input_ids", "attention_mask")
TEXT_SIZES = ({0: "batch", 1: "seq"}, {0: "batch", 1: "seq"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One kind of task.

    A batch is the tensors ``inputs`` and then ``targets``, in that order. ``wrap(model)`` is a module from the inputs
    to the logits that loss and score need, ``infer(model)`` to those that a model in use gives; ``loss(logits,
    *batch)`` is a mean, float32 []; ``losses(logits, *batch)`` is for each example what ``loss`` would be of a batch of
    it alone; ``score(logits, *inputs)`` gives the tensors that an evaluation looks at, named ``outputs``.
    """

    kind: str
    families: tuple[Family, ...]
    auto: Any  # the transformers class that makes the task's model from a folder
    has_head: bool  # whether the model has a part that belongs to the task and is always trained
    has_labels: bool  # whether its examples have labels, of which the exporter must know the number
    has_free_window: bool = False  # whether the exporter chooses how much of a series the model sees
    inputs: tuple[str, ...]
    sizes: tuple[dict[int, str], ...]  # for each input and target, its axes of free size: "batch" or "seq"
    targets: tuple[str, ...] = ()
    outputs: tuple[str, ...]
    example: Callable[[PretrainedConfig, int, int], tuple[Tensor, ...]]  # (config, batch, seq) -> a batch to trace with
    wrap: Callable[[nn.Module], nn.Module]
    in_use: Callable[[nn.Module], nn.Module] | None = None  # ``infer``, where it is not ``wrap``
    loss: Callable[..., Tensor]
    losses: Callable[..., Tensor] | None  # float32 [batch], of each example alone; None: the loss compares examples
    score: Callable[..., tuple[Tensor, ...]]

    @property
    def infer(self) -> Callable[[nn.Module], nn.Module]:
        """Return what makes a module from the inputs to the logits that a model in use gives."""
        return self.in_use or self.wrap


def family_of(config: PretrainedConfig, task: Task) -> Family:
    """Return the family of a model's configuration.

    Raises:
        ConfigError: the task cannot be done with a model of that type.
    """
    for family in task.families:
        if config.model_type in family.model_types:
            return family
    known = ", ".join(sorted(t for f in task.families for t in f.model_types))
    written = ", ".join(getattr(config, "architectures", None) or []) or "no architecture"
    message = (
        f"models of type {config.model_type!r} ({written} in its config.json) are not supported for {task.kind}; "
        f"tried its families {', '.join(f.name for f in task.families)}; supported types: {known}"
    )
    raise ConfigError(message)


def build(
    folder: Path, task: Task, *, n_labels: int | None, seed: int, sizes: Mapping[str, int] | None = None
) -> tuple[PreTrainedModel, Family]:
    """Return the task model of a Hugging Face folder, what is new in it freshly drawn from ``seed``, and its family.

    ``sizes`` stand in place of those in the folder's configuration, by its names.

    Raises:
        ConfigError: the folder's model is of an unknown family, or its weights do not fit its configuration.
        OSError: the folder lacks the files of a model (transformers' own message says which).
    """
    new = {**(sizes or {}), **({"num_labels": n_labels} if task.has_labels else {})}
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **new)
    family = family_of(config, task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, found = task.auto.from_pretrained(
            folder,
            config=config,
            attn_implementation="eager",
            dtype=torch.float32,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # an older head for another number of labels; nothing else, see below
            output_loading_info=True,
        )
    wrong = sorted(key[0] for key in found["mismatched_keys"] if key[0].split(".", 1)[0] not in family.heads)
    if wrong:
        message = f"{folder.name}: its weights are not of the sizes that its config.json says: {', '.join(wrong[:3])}"
        raise ConfigError(message)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fix_rotations(model)
    return model.eval(), family


def text_example(_config: PretrainedConfig, n_examples: int, n_tokens: int) -> tuple[Tensor, ...]:
    """Return input_ids and attention_mask, int64 [batch, seq]."""
    ids = torch.ones((n_examples, n_tokens), dtype=torch.int64)
    return ids, torch.ones_like(ids)
