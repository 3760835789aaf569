"""Text classification: one label a text, from a pretrained encoder and a new head on its first token.

Laws: as ``models.task``; ``losses`` are the cross entropies of a batch's labels and ``loss`` is their mean.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from models.bert import BERT, ELECTRA, ROBERTA
from models.distilbert import DISTILBERT
from models.soft_prompt import prompted
from models.task import TEXT_INPUTS, TEXT_SIZES, Task, text_example

__all__ = ["TEXT_CLASSIFICATION", "Classifier", "loss", "losses"]


class Classifier(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a Hugging Face sequence classifier, adapted or not."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits, float32 [batch, n_labels], of int64 [batch, seq] tokens and mask."""
        output = self.model(**prompted(self.model, input_ids, attention_mask), return_dict=True)
        logits: Tensor = output.logits
        return logits


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy, float32 [], of logits [batch, n_labels] and labels int64 [batch]."""
    return functional.cross_entropy(logits, labels)


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each example, float32 [batch]; arguments as ``loss``."""
    return functional.cross_entropy(logits, labels, reduction="none")


def _example(config: PretrainedConfig, n_examples: int, n_tokens: int) -> tuple[Tensor, ...]:
    return *text_example(config, n_examples, n_tokens), torch.zeros(n_examples, dtype=torch.int64)


TEXT_CLASSIFICATION = Task(
    kind="text-classification",
    families=(BERT, ROBERTA, ELECTRA, DISTILBERT),
    auto=AutoModelForSequenceClassification,
    has_head=True,
    has_labels=True,
    inputs=TEXT_INPUTS,
    sizes=(*TEXT_SIZES, {0: "batch"}),
    targets=("labels",),
    outputs=("logits",),
    example=_example,
    wrap=Classifier,
    loss=lambda logits, _ids, _mask, labels: loss(logits, labels),
    losses=lambda logits, _ids, _mask, labels: losses(logits, labels),
    score=lambda logits, *_: (logits,),
)
