"""Token classification: one label a word, from a pretrained encoder and a new head on every token.

Laws: as ``models.task``. A label stands at the first token of its word, and ``IGNORED`` at every other: the loss is the
mean cross entropy of the labelled tokens of a batch, so that words count alike, however many tokens they have.
"""

import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, PretrainedConfig

from models.bert import BERT, ELECTRA, ROBERTA
from models.distilbert import DISTILBERT
from models.soft_prompt import prompted, without_prompt
from models.task import TEXT_INPUTS, TEXT_SIZES, Task, text_example
from protocol.bundle import IGNORED

__all__ = ["TOKEN_CLASSIFICATION", "Tagger", "loss", "losses"]


class Tagger(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a Hugging Face token classifier, adapted or not."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits, float32 [batch, seq, n_labels], of int64 [batch, seq] tokens and mask."""
        output = self.model(**prompted(self.model, input_ids, attention_mask), return_dict=True)
        return without_prompt(self.model, output.logits)


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy, float32 [], of logits [batch, seq, n_labels] and labels int64 [batch, seq]."""
    own, weights = _token_losses(logits, labels)
    return own.sum() / weights.sum().clamp(min=1)


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of each example's labelled tokens, float32 [batch]; arguments as ``loss``."""
    own, weights = _token_losses(logits, labels)
    return own.sum(1) / weights.sum(1).clamp(min=1)


def _token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each token's loss, zero without a label, and whether it has one (1 or 0), float32 [batch, seq]."""
    is_labelled = labels.ne(IGNORED)  # [batch, seq]
    log_p = logits.log_softmax(-1)
    picked = log_p.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # [batch, seq]
    weights = is_labelled.to(logits.dtype)
    return -(picked * weights), weights


def _example(config: PretrainedConfig, n_examples: int, n_tokens: int) -> tuple[Tensor, ...]:
    ids, mask = text_example(config, n_examples, n_tokens)
    return ids, mask, torch.zeros_like(ids)


TOKEN_CLASSIFICATION = Task(
    kind="token-classification",
    families=(BERT, ROBERTA, ELECTRA, DISTILBERT),
    auto=AutoModelForTokenClassification,
    has_head=True,
    has_labels=True,
    inputs=TEXT_INPUTS,
    sizes=(*TEXT_SIZES, {0: "batch", 1: "seq"}),
    targets=("labels",),
    outputs=("logits",),
    example=_example,
    wrap=Tagger,
    loss=lambda logits, _ids, _mask, labels: loss(logits, labels),
    losses=lambda logits, _ids, _mask, labels: losses(logits, labels),
    score=lambda logits, *_: (logits,),
)
