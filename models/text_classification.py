"""Text classification: one label a text, from a pretrained encoder and a new linear head.

Laws: the model that comes out is deterministic in (folder, n_labels, seed) and is the one that is exported: eager
attention (its backward is made of plain matrix products), dropout 0, evaluation mode. The loss is the one that devices
minimise. This file does not know adapters, ONNX or bundles.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from models.bert import BERT
from models.family import Family
from protocol.errors import ConfigError

__all__ = ["FAMILIES", "INPUT_NAMES", "KIND", "Classifier", "build", "family_of", "loss"]

KIND = "text-classification"
INPUT_NAMES = ("input_ids", "attention_mask")
FAMILIES: tuple[Family, ...] = (BERT,)


class Classifier(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a Hugging Face (or peft) sequence classifier."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits, float32 [batch, n_labels], of int64 [batch, seq] tokens and mask."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        logits: Tensor = output.logits
        return logits


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy, float32 [], of logits [batch, n_labels] and labels int64 [batch]."""
    return functional.cross_entropy(logits, labels)


def family_of(config: PretrainedConfig) -> Family:
    """Return the family of a model's configuration.

    Raises:
        ConfigError: the model is of a family that edgefold does not know.
    """
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    known = ", ".join(sorted(t for f in FAMILIES for t in f.model_types))
    message = f"models of type {config.model_type!r} are not supported for {KIND}; supported types: {known}"
    raise ConfigError(message)


def build(folder: Path, *, n_labels: int, seed: int) -> tuple[PreTrainedModel, Family]:
    """Return the task model of a Hugging Face folder, its head freshly drawn from ``seed``, and its family.

    Raises:
        ConfigError: the folder's model is of an unknown family.
        OSError: the folder lacks the files of a model (transformers' own message says which).
    """
    config = AutoConfig.from_pretrained(folder, num_labels=n_labels, local_files_only=True)
    family = family_of(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, attn_implementation="eager", dtype=torch.float32, local_files_only=True
        )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.eval(), family
