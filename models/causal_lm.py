"""Causal language modelling: the next token, from a pretrained decoder as it is; there is no new head.

Laws: as ``models.task``; ``loss`` is the mean over the tokens that have a real predecessor, so padding counts neither
as a question nor as an answer and long texts count for more than short ones. An evaluation gets, for each token, its
loss and whether it was predicted: two numbers a token instead of logits for a whole vocabulary.
"""

from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from models.gpt2 import GPT2, GPT_NEO, OPT
from models.llama import LLAMA
from models.soft_prompt import n_virtual, prompted
from models.task import TEXT_INPUTS, TEXT_SIZES, Task, text_example

__all__ = ["CAUSAL_LM", "LanguageModel", "loss", "losses", "predicting", "token_scores"]


class LanguageModel(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module, *, end: int | None = None) -> None:
        """Wrap a Hugging Face causal language model, adapted or not; tokens from ``end`` on get no logits."""
        super().__init__()
        self.model = model
        self._end = end

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits, float32 [batch, up to seq, vocabulary], of int64 [batch, seq] tokens and mask."""
        inputs = prompted(self.model, input_ids, attention_mask)
        asked = slice(n_virtual(self.model), self._end)  # transformers 5 takes one, as it takes indices
        output: Tensor = self.model(**inputs, logits_to_keep=asked, use_cache=False, return_dict=True).logits
        return output


def predicting(model: nn.Module) -> LanguageModel:
    """Return the task model that gives logits [batch, seq - 1, vocabulary]: nothing comes after the last token.

    The head is as wide as the vocabulary, so a cut of its logits would be the largest copy of a training step.
    """
    return LanguageModel(model, end=-1)


def loss(logits: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean token loss, float32 [], of ``predicting``'s logits; zero for a batch of texts of one token."""
    counts = attention_mask[:, 1:].sum().clamp(min=1)
    return _token_losses(logits, input_ids, attention_mask).sum() / counts


def losses(logits: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean token loss of each text, float32 [batch]; zero for a text of one token."""
    counts = attention_mask[:, 1:].sum(1).clamp(min=1)  # [batch]
    return _token_losses(logits, input_ids, attention_mask).sum(1) / counts


def token_scores(logits: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and whether it was predicted (1 or 0), float32 [batch, seq - 1], of each token but the first."""
    hits = (logits.argmax(-1) == input_ids[:, 1:]).to(logits.dtype)  # [batch, seq - 1]
    return _token_losses(logits, input_ids, attention_mask), hits * attention_mask[:, 1:].to(logits.dtype)


def _token_losses(logits: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)  # [batch, seq - 1, vocabulary]
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
    wrap=predicting,
    in_use=LanguageModel,
    loss=loss,
    losses=losses,
    score=token_scores,
)
