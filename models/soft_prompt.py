"""Soft prompts: virtual tokens that are learned as embeddings and stand before the text.

Source: Lester et al. 2021, arXiv:2104.08691; the tokens begin as embeddings of words drawn from the vocabulary
(section 3.2). Departure: where the head reads the first token, the prompt stands behind that token, so that the head
goes on reading what it was pretrained on.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

__all__ = ["PROMPT", "SoftPrompt", "add_soft_prompt", "n_virtual", "prompted", "without_prompt"]

PROMPT = "prompt"  # the attribute of the task model that holds the prompt


class SoftPrompt(nn.Module):
    """The virtual tokens."""

    def __init__(self, start: Tensor, *, after: int) -> None:
        """Begin as ``start`` [n_virtual, width], to stand behind the first ``after`` tokens."""
        super().__init__()
        self.embeddings = nn.Parameter(start.clone())
        self.after = after

    def forward(self, embedded: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings [batch, seq + n_virtual, width] and mask [batch, seq + n_virtual]."""
        n_examples, at = embedded.shape[0], self.after
        virtual = self.embeddings.unsqueeze(0).expand(n_examples, -1, -1)  # [batch, n_virtual, width]
        ones = attention_mask.new_ones(n_examples, self.embeddings.shape[0])  # [batch, n_virtual]
        return (
            torch.cat([embedded[:, :at], virtual, embedded[:, at:]], dim=1),
            torch.cat([attention_mask[:, :at], ones, attention_mask[:, at:]], dim=1),
        )


def add_soft_prompt(model: PreTrainedModel, *, n_virtual: int, after: int) -> None:
    """Give ``model`` a trainable prompt of words drawn from torch's generator."""
    reader = getattr(model, "text_model", model)  # of two towers the one that reads
    table = cast("Tensor", reader.get_input_embeddings().weight).detach()  # [vocabulary, width]
    words = torch.randint(len(table), (n_virtual,))
    model.add_module(PROMPT, SoftPrompt(table[words], after=after))


def prompted(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
    """Return the keyword arguments with which ``model`` is called: with its prompt in front, if it has one."""
    prompt = getattr(model, PROMPT, None)
    if prompt is None:
        return {"input_ids": input_ids, "attention_mask": attention_mask}
    words: nn.Module = cast("PreTrainedModel", model).get_input_embeddings()
    embedded, mask = prompt(words(input_ids), attention_mask)
    return {"inputs_embeds": embedded, "attention_mask": mask}


def n_virtual(model: nn.Module) -> int:
    """Return how many tokens stand before the text's own."""
    prompt = getattr(model, PROMPT, None)
    return 0 if prompt is None else int(prompt.embeddings.shape[0])


def without_prompt(model: nn.Module, outputs: Tensor) -> Tensor:
    """Return the outputs [batch, seq, ...] of the text's own tokens, of a prompt that stands in front of all."""
    return outputs[:, n_virtual(model) :]
