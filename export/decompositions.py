"""Backward formulas written for a runtime that executes one operation at a time.

torch's own decompositions are made for a compiler that fuses; here every operation is a pass over memory, so each
formula is arranged for the fewest passes over the large tensors and for the least that must live from forward to
backward. Exact algebra, same inputs as torch's (so nothing more is saved).
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional

__all__ = ["TABLE"]

aten = torch.ops.aten


def native_layer_norm_backward(  # noqa: PLR0913, PLR0917 - torch's signature
    grad: Tensor,
    x: Tensor,
    normalized_shape: list[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    _bias: Tensor | None,
    output_mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of the input, in 9 passes, and of a trained norm's weight and bias.

    With c = x - mean, g = grad * weight: dx = rstd (g - avg(g) - c rstd^2 avg(g c)). The factors of c are one number a
    row, so c is never normalised, except where the norm itself is trained.
    """
    axes = list(range(-len(normalized_shape), 0))
    rows = list(range(x.dim() - len(normalized_shape)))
    g = grad if weight is None else grad * weight
    c = x - mean
    along = (g * c).mean(axes, keepdim=True) * (rstd * rstd)  # [..., 1]
    dx = rstd * ((g - g.mean(axes, keepdim=True)) - c * along) if output_mask[0] else None
    dw = (grad * (c * rstd)).sum(rows) if output_mask[1] else None
    db = grad.sum(rows) if output_mask[2] else None
    return dx, dw, db


def slice_backward(grad: Tensor, input_sizes: list[int], dim: int, start: int, _end: int, step: int) -> Tensor:
    """Return ``grad`` among zeros, as padding: torch scatters, which walks an index tensor of the whole size.

    ``_end`` may count from the end, or lie behind it; the gradient's own size says what was cut.
    """
    size = input_sizes[dim]
    if step != 1 or start < 0:
        return cast("Tensor", NotImplemented)
    behind = size - start - grad.shape[dim]
    if start == 0 and statically_known_true(behind == 0):
        return grad
    axes_after = len(input_sizes) - 1 - dim % len(input_sizes)
    return functional.pad(grad, [0, 0] * axes_after + [start, behind])


TABLE: dict[torch._ops.OpOverload, Callable[..., object]] = {
    aten.slice_backward.default: slice_backward,
    aten.native_layer_norm_backward.default: native_layer_norm_backward,
}
