"""Learned prompts over class names: a picture belongs to the class whose prompted name lies nearest, in frozen towers.

Read top to bottom, the logit of a picture x for a class named by words::

    image  = visual_projection(vision_model(x))
    text_c = text_projection(text_model([begin, v_1 ... v_m, words of c, end]))     <- v_1 ... v_m are trained
    logit  = exp(logit_scale) * cos(image, text_c)

The names are constants of the graph: devices hold pictures and labels, as in ``models.image_classification``, whose
kind this task has; only the exporter knows another model for it.

Laws: as ``models.task``; the number of labels is the number of names; there is no new head. Without a prompt the names
are read as they are, which is CLIP's zero-shot classifier (Radford et al. 2021, section 3.1).

Source: Zhou et al. 2022, arXiv:2109.01134 (CoOp), equation 2: one context for all classes, the name at the end.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, PretrainedConfig
from transformers.masking_utils import create_causal_mask

from models.clip import CLIP
from models.contrastive import normalised
from models.image_classification import IMAGE_CLASSIFICATION
from models.image_text import last_states
from models.patches import cut_by_products
from models.soft_prompt import PROMPT
from models.task import Task
from protocol.errors import ConfigError

__all__ = ["CLASS_NAMES", "NamedClasses", "give_names"]

_IDS, _MASK = "class_ids", "class_mask"  # the buffers of the task model that hold the names


def give_names(model: nn.Module, names: Sequence[str], *, tokenizer: Path, n_virtual: int) -> None:
    """Let ``model``, a CLIP model, know the classes by the tokens of their names, int64 [class, seq] and its mask.

    Raises:
        ConfigError: the tokenizer cannot be read, a name has no token, two have the same ones, or one is longer than
            the model's positions beside ``n_virtual`` of a prompt (whoever chose the names).
    """
    try:
        reader = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # its errors have no class of their own
        message = f"{tokenizer.name}: cannot be read, and names of classes are words: {error}"
        raise ConfigError(message) from error
    reader.no_padding()
    rows = [reader.encode(name).ids for name in names]
    _refuse(rows, names, n_positions=_text_config(model).max_position_embeddings - n_virtual)
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)  # [class, seq]
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    model.register_buffer(_IDS, ids, persistent=False)
    model.register_buffer(_MASK, mask, persistent=False)


def _refuse(rows: list[list[int]], names: Sequence[str], *, n_positions: int) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for row, name in zip(rows, names, strict=True):
        if not row or len(row) > n_positions:
            message = f"--label-names: {name!r} has {len(row)} tokens, the model reads 1 to {n_positions}"
            raise ConfigError(message)
        if tuple(row) in seen:
            message = f"--label-names: {name!r} and {seen[tuple(row)]!r} are the same to the model"
            raise ConfigError(message)
        seen[tuple(row)] = name


class NamedClasses(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a Hugging Face CLIP model that was given names, adapted or not."""
        super().__init__()
        self.model: Any = model
        cut_by_products(model)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits, float32 [batch, n_labels], of float32 [batch, channel, height, width] pixels."""
        images = self.model.visual_projection(self.model.vision_model(pixel_values=pixel_values).pooler_output)
        logits: Tensor = self.model.logit_scale.exp() * (normalised(images) @ normalised(self._names()).T)
        return logits

    def _names(self) -> Tensor:
        """Return what the text tower makes of the names, float32 [class, width]."""
        tower, mask = self.model.text_model, getattr(self.model, _MASK)
        embedded = tower.embeddings.token_embedding(getattr(self.model, _IDS))  # [class, seq, H]
        prompt = getattr(self.model, PROMPT, None)
        if prompt is not None:
            embedded, mask = prompt(embedded, mask)  # [class, seq + n_virtual, H]
        states = tower.embeddings(inputs_embeds=embedded)
        allowed = create_causal_mask(
            config=tower.config, inputs_embeds=states, attention_mask=mask, past_key_values=None
        )
        states = tower.encoder(inputs_embeds=states, attention_mask=allowed, is_causal=True).last_hidden_state
        names: Tensor = self.model.text_projection(last_states(tower.final_layer_norm(states), mask))
        return names


def _text_config(model: nn.Module) -> Any:  # noqa: ANN401 - a transformers configuration
    return model.config.get_text_config()  # type: ignore[operator,union-attr]


def _example(config: PretrainedConfig, n_examples: int, n_tokens: int) -> tuple[Tensor, ...]:
    return IMAGE_CLASSIFICATION.example(config.vision_config, n_examples, n_tokens)


CLASS_NAMES = Task(
    kind=IMAGE_CLASSIFICATION.kind,
    families=(CLIP,),
    auto=CLIPModel,
    has_head=False,
    has_labels=True,
    inputs=IMAGE_CLASSIFICATION.inputs,
    sizes=IMAGE_CLASSIFICATION.sizes,
    targets=IMAGE_CLASSIFICATION.targets,
    outputs=IMAGE_CLASSIFICATION.outputs,
    example=_example,
    wrap=NamedClasses,
    loss=lambda logits, _pixels, labels: functional.cross_entropy(logits, labels),
    losses=lambda logits, _pixels, labels: functional.cross_entropy(logits, labels, reduction="none"),
    score=lambda logits, *_: (logits,),
)
