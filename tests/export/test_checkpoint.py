"""Layers that are computed again in the backward: found in any module tree, equal gradients, less that is kept."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from export.checkpoint import checkpoint_layers
from protocol.errors import ConfigError

WIDTH = 6


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 11), nn.Linear(11, WIDTH)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x))) * scale


class _Towers(nn.Module):
    """Two stacks of layers of no known model, with something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.ModuleList(_Block() for _ in range(3))
        self.right = nn.ModuleList(_Block() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(x.mean())
        for block in self.left:
            x = block(x, scale)
        x = x.cos()
        for block in self.right:
            x = block(x, scale)
        return (x * x).mean()


def _exported(model: nn.Module) -> torch.fx.GraphModule:
    sizes = {0: torch.export.Dim("n", min=2)}
    program = torch.export.export(model, (torch.randn(5, WIDTH),), dynamic_shapes=(sizes,), strict=False)
    return program.run_decompositions().module(check_guards=False)


def _gradient(module: nn.Module) -> Callable[[dict[str, Tensor], Tensor], dict[str, Tensor]]:
    return torch.func.grad(lambda values, x: torch.func.functional_call(module, values, (x,)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_layer_but_each_stacks_last_is_computed_again_with_the_same_gradient() -> None:
    torch.manual_seed(3)
    model, x = _Towers(), torch.randn(4, WIDTH)
    plain, again = _exported(model), _exported(model)
    assert checkpoint_layers(again) == 2 + 1
    values = dict(plain.named_parameters())
    expected, actual = _gradient(plain)(values, x), _gradient(again)(values, x)
    for name, gradient in expected.items():
        assert torch.allclose(actual[name], gradient, rtol=1e-5, atol=1e-7)
    traced = make_fx(_gradient(again), tracing_mode="symbolic")(values, x)
    n_tanh = sum(node.target is torch.ops.aten.tanh.default for node in traced.graph.nodes)
    assert n_tanh == 5 + 3


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_without_repeated_layers_is_refused() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Linear(WIDTH, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.only(x).mean()

    with pytest.raises(ConfigError, match="no two layers"):
        checkpoint_layers(_exported(Single()))
