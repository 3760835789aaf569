"""Activations that keep their slope instead of their input.

A backward needs either the input of GELU, and then the slope from it, or the slope. Computed in the forward the slope
shares the forward's erf, its temporaries are gone when memory is at its peak (between forward and backward), and what
lives from forward to backward is one tensor, as before. On MiniLM at 16 x 64 it took 15 MB off the peak. Models that
spell GELU's approximation by tanh out as they go (GPT-2) keep four tensors of that size otherwise, by a sigmoid (CLIP)
two.

Laws: the same function to the last rounding or two, and the model's own: exact GELU stays exact, an approximation the
same approximation. It knows operations, not models; what is written otherwise than ``_SPELT`` is left alone.

Source of the approximations: Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = ["keep_slopes"]

SQRT_HALF = math.sqrt(0.5)
LOG_PDF_0 = math.log(2.0 / math.sqrt(2.0 * math.pi))  # log of twice the standard normal density at 0
SQRT_2_PI, CUBE = math.sqrt(2.0 / math.pi), 0.044715  # tanh(SQRT_2_PI (x + CUBE x^3)) is about erf(x / sqrt 2)
QUICK = 1.702  # x sigmoid(QUICK x) is about GELU

aten = torch.ops.aten


class _Sloped(torch.autograd.Function):
    """A function whose forward gives (value, slope) and whose backward multiplies by the slope.

    A factor that both have stands last, where the matrix product that reads or made the value takes it as its alpha.
    """

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401, ARG004
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])


class _Halved(_Sloped):
    """One whose slope is given without its factor of a half."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _slope_grad: Tensor) -> Tensor:  # noqa: ANN401
        (slope,) = ctx.saved_tensors
        result: Tensor = (grad * 0.5) * slope
        return result


class _Gelu(_Halved):
    """gelu(x) = x (1 + erf u) / 2 and gelu'(x) = (1 + erf u + x exp(log(2 pdf(0)) - u^2)) / 2 with u = x / sqrt 2."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        u = x * SQRT_HALF
        h = torch.erf(u) + 1.0
        slope = h + x * torch.exp(LOG_PDF_0 - u * u)  # first: then its temporaries never lie beside the value
        return (x * h) * 0.5, slope


class _TanhGelu(_Halved):
    """x (1 + t) / 2 and (1 + t + x (1 - t^2) u') / 2 with t = tanh u, u = a (x + b x^3) and so u' = a (1 + 3 b x^2)."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        square = x * x
        t = torch.tanh(x * (square * (SQRT_2_PI * CUBE) + SQRT_2_PI))
        steep = x * (square * (3.0 * SQRT_2_PI * CUBE) + SQRT_2_PI)  # x u'
        slope = (t + 1.0) + steep * (1.0 - t * t)
        return (x * (t + 1.0)) * 0.5, slope


class _Swish(_Sloped):
    """x s and s + b x s (1 - s) with s = sigmoid(b x): SiLU for b = 1, the quick approximation of GELU for 1.702."""

    @staticmethod
    def forward(x: Tensor, b: float) -> tuple[Tensor, Tensor]:
        s = torch.sigmoid(x if b == 1.0 else x * b)
        value = x * s
        rest = value * (1.0 - s)
        return value, s + (rest if b == 1.0 else rest * b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _slope_grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (slope,) = ctx.saved_tensors
        return grad * slope, None


def _gelu(x: Tensor) -> Tensor:
    value: Tensor = _Gelu.apply(x)[0]  # type: ignore[no-untyped-call]  # torch gives it no types, here and below
    return value


def _tanh_gelu(x: Tensor) -> Tensor:
    value: Tensor = _TanhGelu.apply(x)[0]  # type: ignore[no-untyped-call]
    return value


def _silu(x: Tensor) -> Tensor:
    value: Tensor = _Swish.apply(x, 1.0)[0]  # type: ignore[no-untyped-call]
    return value


def _quick_gelu(x: Tensor) -> Tensor:
    value: Tensor = _Swish.apply(x, QUICK)[0]  # type: ignore[no-untyped-call]
    return value


# An operation with its arguments: X is the input, a tuple another operation, a number itself.
X = "x"
_BY_TANH = (aten.mul.Tensor, (aten.add.Tensor, X, (aten.mul.Tensor, (aten.pow.Tensor_Scalar, X, 3.0), CUBE)), SQRT_2_PI)
_FAST = (aten.add.Tensor, (aten.mul.Tensor, (aten.mul.Tensor, X, CUBE), X), 1.0)
_SPELT: tuple[tuple[tuple[Any, ...], Callable[[Tensor], Tensor]], ...] = (
    *(
        ((aten.mul.Tensor, (aten.mul.Tensor, X, 0.5), (aten.add.Tensor, (aten.tanh.default, inside), 1.0)), _tanh_gelu)
        for inside in (_BY_TANH, (aten.mul.Tensor, (aten.mul.Tensor, X, SQRT_2_PI), _FAST))
    ),
    ((aten.mul.Tensor, X, (aten.sigmoid.default, (aten.mul.Tensor, X, QUICK))), _quick_gelu),
    ((aten.silu.default, X), _silu),
    ((aten.mul.Tensor, X, (aten.sigmoid.default, X)), _silu),  # as torch's decomposition writes it
)


def keep_slopes(module: GraphModule) -> GraphModule:
    """Return ``module`` with every activation of a known form keeping its slope.

    Requires: a graph that is about to be differentiated.
    """
    for node in list(module.graph.nodes):
        found = _read(node)
        if found is not None:
            function, x = found
            node.target, node.args, node.kwargs = function, (x,), {}
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _read(node: Node) -> tuple[Callable[[Tensor], Tensor], Node] | None:
    """Return the activation that ends at ``node``, and its input."""
    if node.target is aten.gelu.default:
        x = node.args[0]
        is_exact = node.kwargs.get("approximate", "none") == "none"
        return (_gelu if is_exact else _tanh_gelu, x) if isinstance(x, Node) else None
    for form, function in _SPELT:
        inputs: list[Node] = []
        if _matches(node, form, inputs) and len(set(inputs)) == 1:
            return function, inputs[0]
    return None


def _matches(value: object, form: object, inputs: list[Node]) -> bool:
    """Return whether ``value`` is computed by ``form``; what stands for X is added to ``inputs``."""
    if form is X:
        if isinstance(value, Node):
            inputs.append(value)
        return isinstance(value, Node)
    if isinstance(form, float):
        return isinstance(value, (int, float)) and math.isclose(value, form, rel_tol=1e-6)
    if not isinstance(form, tuple) or not isinstance(value, Node):
        return False
    kind, *parts = form
    is_plain = value.target is kind and not value.kwargs and len(value.args) == len(parts)
    return is_plain and all(_matches(one, part, inputs) for one, part in zip(value.args, parts, strict=True))
