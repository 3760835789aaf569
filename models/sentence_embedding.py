"""Sentence embeddings: texts that belong together get vectors that point the same way, learned from pairs.

Laws: as ``models.task``; there is no new head. A batch holds pairs; the vector of a text is the mean of its tokens'
last states at length one, as the MiniLM, E5 and GTE encoders were pretrained; cosines are multiplied by 20 before they
are compared with those of the batch's other pairs (``models.contrastive``). A larger batch is a harder question, in
training and in an evaluation: accuracies are comparable for one batch size only.

Source: Reimers & Gurevych 2019, arXiv:1908.10084; in-batch negatives: Henderson et al. 2017, arXiv:1705.00652.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig

from models.bert import BERT, ELECTRA, ROBERTA
from models.contrastive import contrastive_scores, normalised
from models.distilbert import DISTILBERT
from models.soft_prompt import prompted
from models.task import TEXT_INPUTS, Task

__all__ = ["SENTENCE_EMBEDDING", "Embedder"]

SCALE = 20.0  # Reimers & Gurevych's released training code; a temperature of 0.05
PAIR_SIZES = ({0: "batch", 2: "seq"}, {0: "batch", 2: "seq"})


class Embedder(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a Hugging Face encoder, adapted or not."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return embeddings, float32 [batch, 2, width], of int64 [batch, 2, seq] tokens and mask of pairs."""
        ids, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)  # [batch x 2, seq]
        inputs = prompted(self.model, ids, mask)
        states = self.model(**inputs, return_dict=True).last_hidden_state  # [batch x 2, seq, width]
        weights = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)  # [batch x 2, seq, 1]
        means = (states * weights).sum(1) / weights.sum(1)  # [batch x 2, width]
        return normalised(means).reshape(-1, 2, means.shape[-1])


def similarities(embeddings: Tensor) -> Tensor:
    """Return the scaled cosines, float32 [batch, batch], of embeddings [batch, 2, width]."""
    return SCALE * (embeddings[:, 0] @ embeddings[:, 1].T)


class _Auto:
    """The encoder alone: the pooler that some have is not read, so it has no gradient."""

    @staticmethod
    def from_pretrained(folder: Any, **options: Any) -> Any:  # noqa: ANN401 - a model
        model, found = AutoModel.from_pretrained(folder, **options)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        return model, found


def _example(_config: PretrainedConfig, n_examples: int, n_tokens: int) -> tuple[Tensor, ...]:
    ids = torch.ones((n_examples, 2, n_tokens), dtype=torch.int64)
    return ids, torch.ones_like(ids)


SENTENCE_EMBEDDING = Task(
    kind="sentence-embedding",
    families=(BERT, ROBERTA, ELECTRA, DISTILBERT),
    auto=_Auto,
    has_head=False,
    has_labels=False,
    inputs=TEXT_INPUTS,
    sizes=PAIR_SIZES,
    outputs=("embeddings", "losses", "hits"),
    example=_example,
    wrap=Embedder,
    loss=lambda embeddings, *_: contrastive_scores(similarities(embeddings))[0].mean(),
    losses=None,
    score=lambda embeddings, *_: (embeddings, *contrastive_scores(similarities(embeddings))),
)
