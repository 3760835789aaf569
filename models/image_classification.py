"""Image classification: one label a picture, from a pretrained vision transformer and a new head.

Laws: as ``models.task``; ``loss`` is the mean cross entropy of a batch's labels. Pictures come in the size that the
model was pretrained on, so the number of patches is fixed and only the batch is free.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    DeiTForImageClassification,
    Dinov2ForImageClassification,
    PretrainedConfig,
    ViTForImageClassification,
)

from models.patches import cut_by_products
from models.task import Task
from models.vit import DEIT, DINOV2, VIT

__all__ = ["CLASSES", "IMAGE_CLASSIFICATION", "ImageClassifier"]

CLASSES: dict[str, Any] = {
    "vit": ViTForImageClassification,
    "deit": DeiTForImageClassification,
    "dinov2": Dinov2ForImageClassification,
}


class ImageClassifier(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a Hugging Face image classifier, adapted or not; its patches are cut by a matrix product from now on."""
        super().__init__()
        self.model = model
        cut_by_products(model)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits, float32 [batch, n_labels], of float32 [batch, channel, height, width] pixels."""
        logits: Tensor = self.model(pixel_values=pixel_values, return_dict=True).logits
        return logits


class _Auto:
    """Chooses the class by the configuration; transformers' own choice for DeiT depends on its ``architectures``."""

    @staticmethod
    def from_pretrained(folder: Any, *, config: PretrainedConfig, **options: Any) -> Any:  # noqa: ANN401 - a model
        return CLASSES[config.model_type].from_pretrained(folder, config=config, **options)


def _example(config: PretrainedConfig, n_examples: int, _n_tokens: int) -> tuple[Tensor, ...]:
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.zeros(n_examples, config.num_channels, height, width)
    return pixels, torch.zeros(n_examples, dtype=torch.int64)


IMAGE_CLASSIFICATION = Task(
    kind="image-classification",
    families=(VIT, DEIT, DINOV2),
    auto=_Auto,
    has_head=True,
    has_labels=True,
    inputs=("pixel_values",),
    sizes=({0: "batch"}, {0: "batch"}),
    targets=("labels",),
    outputs=("logits",),
    example=_example,
    wrap=ImageClassifier,
    loss=lambda logits, _pixels, labels: functional.cross_entropy(logits, labels),
    losses=lambda logits, _pixels, labels: functional.cross_entropy(logits, labels, reduction="none"),
    score=lambda logits, *_: (logits,),
)
