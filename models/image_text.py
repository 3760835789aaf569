"""Image and text: a picture must find its caption among all captions of its batch, with two pretrained towers.

Laws: as ``models.task``; there is no new head. As in ``models.sentence_embedding`` a larger batch is a harder question.

Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel, PretrainedConfig

from models.clip import CLIP
from models.contrastive import contrastive_scores, normalised
from models.patches import cut_by_products
from models.task import TEXT_INPUTS, TEXT_SIZES, Task, text_example

__all__ = ["IMAGE_TEXT", "Towers", "last_states"]


class Towers(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a Hugging Face CLIP model, adapted or not."""
        super().__init__()
        self.model: Any = model
        cut_by_products(model)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return similarities, float32 [batch, batch], of pictures and captions.

        Args:
            pixel_values: float32 [batch, channel, height, width].
            input_ids: int64 [batch, seq].
            attention_mask: int64 [batch, seq].
        """
        images = self.model.visual_projection(self.model.vision_model(pixel_values=pixel_values).pooler_output)
        states = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        texts = self.model.text_projection(last_states(states, attention_mask))  # [batch, width]
        result: Tensor = self.model.logit_scale.exp() * (normalised(images) @ normalised(texts).T)
        return result


def last_states(states: Tensor, mask: Tensor) -> Tensor:
    """Return the states [batch, width] of each text's last token, its end mark, of ``states`` [batch, seq, width].

    CLIP's own code looks for the end mark's id, which is another one in older checkpoints; the place is the same.
    """
    at = torch.arange(mask.shape[1], device=mask.device).unsqueeze(0) == mask.sum(1, keepdim=True) - 1  # [batch, seq]
    return (states * at.unsqueeze(-1).to(states.dtype)).sum(1)


def _example(config: PretrainedConfig, n_examples: int, n_tokens: int) -> tuple[Tensor, ...]:
    vision = config.vision_config
    pixels = torch.zeros(n_examples, vision.num_channels, vision.image_size, vision.image_size)
    return pixels, *text_example(config, n_examples, n_tokens)


IMAGE_TEXT = Task(
    kind="image-text",
    families=(CLIP,),
    auto=CLIPModel,
    has_head=False,
    has_labels=False,
    inputs=("pixel_values", *TEXT_INPUTS),
    sizes=({0: "batch"}, *TEXT_SIZES),
    outputs=("similarities", "losses", "hits"),
    example=_example,
    wrap=Towers,
    loss=lambda similarities, *_: contrastive_scores(similarities)[0].mean(),
    losses=None,
    score=lambda similarities, *_: (similarities, *contrastive_scores(similarities)),
)
