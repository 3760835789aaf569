"""Causal language modelling: the next token, from a pretrained decoder as it is; there is no new head.

Laws: as ``models.task``; ``loss`` is the mean over the tokens that have a real predecessor, so padding counts neither
as a question nor as an answer and long texts count for more than short ones. An evaluation gets, for each token, its
loss and whether it was predicted: two numbers a token instead of logits for a whole vocabulary.
"""

from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from models.gpt2 import GPT2, GPT_NEO, OPT
from models.llama import LLAMA
from models.soft_prompt import prompted, without_prompt
from models.task import TEXT_INPUTS, TEXT_SIZES, Task, text_example

__all__ = ["CAUSAL_LM", "LanguageModel", "loss", "losses", "token_scores"]


class LanguageModel(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a Hugging Face causal language model, adapted or not."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits, float32 [batch, seq, vocabulary], of int64 [batch, seq] tokens and mask."""
        inputs = prompted(self.model, input_ids, attention_mask)
        output = self.model(**inputs, use_cache=False, return_dict=True)
        return without_prompt(self.model, output.logits)


def loss(logits: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean token loss, float32 []; zero for a batch of texts of one token."""
    counts = attention_mask[:, 1:].sum().clamp(min=1)
    return _token_losses(logits, input_ids, attention_mask).sum() / counts


def losses(logits: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean token loss of each text, float32 [batch]; zero for a text of one token."""
    counts = attention_mask[:, 1:].sum(1).clamp(min=1)  # [batch]
    return _token_losses(logits, input_ids, attention_mask).sum(1) / counts


def token_scores(logits: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and whether it was predicted (1 or 0), float32 [batch, seq - 1], of each token but the first."""
    hits = (logits[:, :-1].argmax(-1) == input_ids[:, 1:]).to(logits.dtype)  # [batch, seq - 1]
    return _token_losses(logits, input_ids, attention_mask), hits * attention_mask[:, 1:].to(logits.dtype)


def _token_losses(logits: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    log_p = logits[:, :-1].log_softmax(-1)  # [batch, seq - 1, vocabulary]
    picked = log_p.gather(-1, input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)  # [batch, seq - 1]
    return -picked * attention_mask[:, 1:].to(logits.dtype)


CAUSAL_LM = Task(
    kind="causal-lm",
    families=(GPT2, GPT_NEO, OPT, LLAMA),
    auto=AutoModelForCausalLM,
    has_head=False,
    has_labels=False,
    inputs=TEXT_INPUTS,
    sizes=TEXT_SIZES,
    outputs=("losses", "hits"),
    example=text_example,
    wrap=LanguageModel,
    loss=loss,
    losses=losses,
    score=token_scores,
)
