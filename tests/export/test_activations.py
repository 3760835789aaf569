"""Activations keep one tensor for the backward, and are the functions that they were."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from export.activations import keep_slopes

SPELT = ["gelu", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "quick_gelu", "silu"]


class _Layer(nn.Module):
    """A product, the activation, and a product, so that what is kept between them is the activation's alone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.activation = ACT2FN[name]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(x + 0.0) * 1.0
        return result


def _kept(function: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return the value, the slope, and how many different tensors wait for the backward."""
    kept: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = function(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    return value, slope, len(kept)


@pytest.mark.parametrize("form", ["as written", "decomposed"])
@pytest.mark.parametrize("name", SPELT)
def test_value_and_slope_are_those_of_the_model_and_one_tensor_is_kept(name: str, form: str) -> None:
    x = torch.cat([torch.linspace(-9, 9, 2001), torch.tensor([-40.0, 40.0, 1e-6, 0.0])]).requires_grad_()
    program = torch.export.export(_Layer(name), (x.detach(),))
    if form == "decomposed":  # as ``trace`` has it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = program.run_decompositions()
    sloped = keep_slopes(program.module(check_guards=False))  # type: ignore[arg-type]
    value, slope, n_kept = _kept(sloped, x)
    wanted, wanted_slope, _ = _kept(_Layer(name).double(), x.double())
    assert torch.allclose(value.double(), wanted, rtol=1e-6, atol=1e-6)
    assert torch.allclose(slope.double(), wanted_slope.double(), rtol=1e-6, atol=1e-6)
    assert n_kept == 1


@pytest.mark.parametrize("name", ["relu", "mish", "tanh"])
def test_others_are_left_alone(name: str) -> None:
    program = torch.export.export(_Layer(name), (torch.ones(3),))
    module = program.module(check_guards=False)
    before = [node.target for node in module.graph.nodes]  # type: ignore[union-attr]
    assert [node.target for node in keep_slopes(module).graph.nodes] == before  # type: ignore[arg-type]


def test_a_product_of_two_inputs_that_looks_like_one_is_left_alone() -> None:
    class Gated(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * torch.sigmoid(1.702 * y)

    x, y = torch.linspace(-1, 1, 5), torch.linspace(2, 3, 5)
    module = keep_slopes(torch.export.export(Gated(), (x, y)).module(check_guards=False))  # type: ignore[arg-type]
    assert torch.equal(module(x, y), Gated()(x, y))
