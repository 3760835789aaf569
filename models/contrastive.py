"""The contrastive loss: each example must find its partner among all partners of its batch.

Source: van den Oord et al. 2018, arXiv:1807.03748 (InfoNCE), with the other examples of the batch as negatives and both
directions averaged, as Radford et al. 2021, arXiv:2103.00020, figure 3.
"""

import torch
from torch import Tensor

__all__ = ["contrastive_scores", "normalised"]

LEAST_NORM_SQUARED = 1e-6  # far below any embedding's; not so small that a lowering would drop it (docs/export.md)


def normalised(vectors: Tensor) -> Tensor:
    """Return ``vectors`` [..., width] at length one."""
    return vectors * torch.rsqrt((vectors * vectors).sum(-1, keepdim=True) + LEAST_NORM_SQUARED)


def contrastive_scores(similarities: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each example, and whether it found its partner (1 or 0), float32 [batch].

    Args:
        similarities: float32 [batch, batch]; row i, column j: example i and the partner of example j.
    """
    n = similarities.shape[0]
    own = torch.arange(n, device=similarities.device)
    is_own = (own.unsqueeze(0) == own.unsqueeze(1)).to(similarities.dtype)  # [batch, batch]
    along = similarities.log_softmax(1) + similarities.log_softmax(0)
    losses = -0.5 * (along * is_own).sum(1)  # [batch]
    hits = (similarities.argmax(1) == own).to(similarities.dtype)
    return losses, hits
