"""Pass: a folder becomes a task model with an adapter, and the adapter a layout and an initial vector.

Laws: deterministic in the folder and the options; refuses before anything long is done.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PretrainedConfig, PreTrainedModel

from export.load import Source, image_facts, series_facts
from export.problems import Inputs
from export.quantise import Precision, Table, quantise
from models.adapters import Recipe, Trainable, add_adapter, flatten, parts_of
from models.class_names import give_names
from models.dropout import places
from models.family import Family
from models.task import TEXT_INPUTS, Task, build
from models.tasks import NAMED_CLASSES, TASKS
from protocol.bundle import TierFacts
from protocol.errors import ConfigError
from protocol.layout import Layout, TensorSlot

LEAST_DROPOUT, MOST_DROPOUT = 0.001, 0.9
LEAST_CONTEXT = 8  # steps; fewer say nothing of a series, and Fracast's own package refuses them too

__all__ = ["Adapted", "Options", "adapt", "task_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller of an export chooses."""

    task: str = "text-classification"
    n_labels: int | None = None  # None: the task has none
    label_names: tuple[str, ...] = ()  # in the order of the labels; what a task of named classes reads
    adapter: str = "lora"  # parts joined by +
    rank: int = 8
    alpha: float = 16.0  # with rank 8 the scale is 2, as in Hu et al.'s released configurations
    rslora: bool = False
    targets: tuple[str, ...] = ()  # empty: the family's own
    n_virtual: int = 8  # Lester et al. 2021, figure 3b: little is won above 20, and each costs time in every layer
    max_tokens: int = 128
    context: int | None = None  # steps of a series that the model sees; None: as it was pretrained
    channels: int | None = None  # of a step, each forecast for itself; None: as it was pretrained
    precision: Precision = "fp32"  # of the frozen weights
    tier: TierFacts | None = None  # what the bundle is made for; said in the manifest
    checkpoint: bool = False  # compute the inside of a layer again in the backward instead of keeping it
    dropout: float = 0.0  # how often a value is dropped in training
    per_example: bool = False  # whether the bundle has a graph that clips each example's gradient by itself
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no adapter can be made of.

        Raises:
            ConfigError: a value is out of its range, or an option speaks of what is not there.
        """
        limits = {
            "rank": (self.rank, 1),
            "max-tokens": (self.max_tokens, 2),
            "prompt-tokens": (self.n_virtual, 1),
        }
        self._check_names()
        self._check_window()
        if self.has_labels:
            if self.n_labels is None:
                message = f"--labels is missing: how many labels does this {self.task} have?"
                raise ConfigError(message)
            limits["labels"] = (self.n_labels, 2)
        elif self.n_labels is not None:
            message = f"--labels is {self.n_labels}, but {self.task} has no labels"
            raise ConfigError(message)
        for name, (value, least) in limits.items():
            if value < least:
                message = f"--{name} is {value}, it must be at least {least}"
                raise ConfigError(message)
        if not (self.dropout == 0 or LEAST_DROPOUT <= self.dropout <= MOST_DROPOUT):
            message = f"--dropout is {self.dropout}, it must be 0, or from {LEAST_DROPOUT} to {MOST_DROPOUT}"
            raise ConfigError(message)
        self._check_per_example()
        if not self.alpha > 0:
            message = f"--alpha is {self.alpha}, it must be above 0"
            raise ConfigError(message)
        if "lora" not in self.parts and (self.targets or self.rslora):
            message = f"--targets and --rslora are for lora, which --adapter {self.adapter} has not"
            raise ConfigError(message)

    def _check_names(self) -> None:
        if self.task == NAMED_CLASSES and not self.label_names:
            message = f"--label-names is missing: the names of the classes are what {self.task} reads, such as cat,dog"
            raise ConfigError(message)
        if self.label_names and self.n_labels is not None and len(self.label_names) != self.n_labels:
            message = f"--label-names has {len(self.label_names)} names for {self.n_labels} labels"
            raise ConfigError(message)
        if len(set(self.label_names)) != len(self.label_names):
            message = "--label-names: a name occurs twice"
            raise ConfigError(message)

    def _check_per_example(self) -> None:
        if not self.per_example:
            return
        if TASKS[self.task].losses is None:
            message = f"--per-example: the loss of {self.task} compares the examples of a batch, and one alone has none"
            raise ConfigError(message)
        if self.dropout:
            message = (
                "--per-example does not go with --dropout: masks are drawn for a batch, so that one example would "
                "change the gradients of the others; leave out one of them"
            )
            raise ConfigError(message)

    def _check_window(self) -> None:
        if self.context is None and self.channels is None:
            return
        if not TASKS[self.task].has_free_window:
            message = f"--context and --channels: in {self.task} they are those that the model was pretrained on"
            raise ConfigError(message)
        for name, value, least in (("context", self.context, LEAST_CONTEXT), ("channels", self.channels, 1)):
            if value is not None and value < least:
                message = f"--{name} is {value}, it must be at least {least}"
                raise ConfigError(message)

    @property
    def window(self) -> dict[str, int]:
        """Return the sizes that stand in place of a forecaster's own, by their names in its configuration."""
        chosen = {"context_length": self.context, "num_input_channels": self.channels}
        return {name: value for name, value in chosen.items() if value is not None}

    @property
    def has_labels(self) -> bool:
        """Return whether the task's examples have labels."""
        return TASKS[self.task].has_labels

    @property
    def is_text(self) -> bool:
        """Return whether the task's examples are texts."""
        return "input_ids" in TASKS[self.task].inputs

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the adapter's parts in their order."""
        return parts_of(self.adapter, has_head=TASKS[self.task].has_head)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A task model with an adapter."""

    model: PreTrainedModel
    task: Task
    family: str
    recipe: Recipe
    trainables: tuple[Trainable, ...]
    layout: Layout
    theta: NDArray[np.float32]  # [n_params], the initial adapter
    n_parameters: int  # of the base and its head, without the adapter
    inputs: Inputs
    pad_id: int  # of a task on text
    table: Table  # how frozen weights are stored; empty: as float32


def adapt(source: Source, options: Options) -> Adapted:
    """Return the model of ``source`` with a new adapter, and a new head where the task has one.

    Requires: a folder that ``load`` checked.
    Ensures: ``theta`` in the layout's order; LoRA's B is zero and IA3's factors are one, so that these change nothing
    before they are trained.

    Raises:
        ConfigError: an unsupported model, an unknown target, or more tokens than the model has positions.
    """
    task = TASKS[options.task]
    try:
        model, family = task_model(source.folder, options, seed=options.seed)
    except (OSError, ValueError, KeyError) as error:
        message = f"{source.name}: not a Hugging Face model folder: {str(error).splitlines()[0][:200]}"
        raise ConfigError(message) from error
    if options.is_text:
        _refuse_long_texts(model.config.get_text_config(), family, options, source.name)
    if "soft-prompt" in options.parts and task.inputs != TEXT_INPUTS and options.task != NAMED_CLASSES:
        message = f"--adapter {options.adapter}: a soft prompt stands beside text, and {task.kind} is not on text alone"
        raise ConfigError(message)
    window = getattr(model.config, "window", None)
    if options.context is not None and window is not None and options.context > window:
        message = f"--context is {options.context}, the model's window has {window}"
        raise ConfigError(message)
    n_parameters = sum(p.numel() for p in model.parameters())
    recipe = Recipe(
        parts=options.parts,
        rank=options.rank,
        alpha=options.alpha,
        rslora=options.rslora,
        targets=options.targets or family.default_targets,
        n_virtual=options.n_virtual,
        dropout=options.dropout,
        seed=options.seed,
    )
    parts = add_adapter(model, family, recipe)
    inputs = _inputs(model.config, source, options)
    if options.dropout:
        inputs = replace(inputs, dropout=places(model, task, rate=options.dropout))
    return Adapted(
        model=model,
        task=task,
        family=family.name,
        recipe=recipe,
        trainables=parts,
        layout=_layout(parts),
        theta=flatten(model, parts).numpy(),
        n_parameters=n_parameters,
        inputs=inputs,
        pad_id=(model.config.get_text_config().pad_token_id or 0) if options.is_text else 0,
        table=quantise(model, options.precision),
    )


def task_model(folder: Path, options: Options, *, seed: int) -> tuple[PreTrainedModel, Family]:
    """Return the model that ``options`` speak of, without an adapter, and its family; ``seed`` draws what is new.

    Raises:
        ConfigError: as ``models.task.build``, or names of classes that the model cannot read.
        OSError: the folder lacks the files of a model.
    """
    model, family = build(folder, TASKS[options.task], n_labels=options.n_labels, seed=seed, sizes=options.window)
    if options.task == NAMED_CLASSES:
        n_virtual = options.n_virtual if "soft-prompt" in options.parts else 0
        give_names(model, options.label_names, tokenizer=folder / "tokenizer.json", n_virtual=n_virtual)
    return model, family


def _inputs(config: PretrainedConfig, source: Source, options: Options) -> Inputs:
    names = TASKS[options.task].inputs
    return Inputs(
        kind=TASKS[options.task].kind,
        vocabulary=config.get_text_config().vocab_size if options.is_text else None,
        max_tokens=options.max_tokens if options.is_text else None,
        images=image_facts(source.folder, config) if "pixel_values" in names else None,
        series=series_facts(config) if "series" in names else None,
        n_labels=options.n_labels,
    )


def _refuse_long_texts(config: PretrainedConfig, family: Family, options: Options, name: str) -> None:
    n_virtual = options.n_virtual if "soft-prompt" in options.parts else 0
    positions = config.max_position_embeddings - n_virtual
    if family.positions_after_pad:
        positions -= config.pad_token_id + 1
    if options.max_tokens > positions:
        left = f" left beside {n_virtual} virtual tokens" if n_virtual else ""
        message = f"--max-tokens is {options.max_tokens}, {name} has {positions} positions{left}"
        raise ConfigError(message)


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
