"""What a backward can make of what it has need not wait for it; what a word's gradient is need not be scattered."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional

from export.again import compute_again
from export.trace import plain

WIDTH, WORDS = 6, 11

aten = torch.ops.aten


def _traced(
    loss: Callable[[Sequence[Tensor], Tensor, Tensor], Tensor], batch: Tensor
) -> tuple[GraphModule, list[Tensor]]:
    """Return (loss, gradient) of ``loss(frozen, theta, batch)`` as a graph, and its example inputs."""
    torch.manual_seed(0)
    frozen = [torch.randn(WIDTH, WIDTH), torch.rand(WIDTH) + 0.5, torch.randn(WIDTH), torch.randn(WORDS, WIDTH)]
    theta = torch.randn(2 * WIDTH)

    def train(values: Sequence[Tensor], theta: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        grad, value = torch.func.grad_and_value(lambda own: loss(values, own, batch))(theta)
        return value, grad

    return plain(train, frozen, theta, (batch,)), [*frozen, theta, batch]


def _run(module: GraphModule, given: list[Tensor]) -> tuple[Tensor, Tensor]:
    *frozen, theta, batch = given
    result: tuple[Tensor, Tensor] = module(frozen, theta, batch)
    return result


def _paired(x: Tensor, theta: Tensor) -> Tensor:
    """Return what a pair of thin matrices adds, whose gradient needs ``x``."""
    return (x @ theta[:WIDTH].view(-1, 1)) @ theta[WIDTH:].view(1, -1)


def _after_norm(values: Sequence[Tensor], theta: Tensor, x: Tensor) -> Tensor:
    weight, scale, shift, _ = values
    # The pair below lets a gradient flow through the norm, whose backward then keeps what goes into it.
    y = functional.layer_norm(x @ weight + _paired(x, theta), (WIDTH,), scale, shift)
    return (y @ weight + _paired(y, theta)).square().sum()


def _after_root(values: Sequence[Tensor], theta: Tensor, x: Tensor) -> Tensor:
    weight, scale, *_ = values
    h = x @ weight + _paired(x, theta)
    y = scale * (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6))
    return (y @ weight + _paired(y, theta)).square().sum()


def _without_a_reason(values: Sequence[Tensor], theta: Tensor, x: Tensor) -> Tensor:
    weight, scale, shift, _ = values
    # Nothing trains below the norm, so nothing of it waits but its result: to make it again would keep more.
    y = functional.layer_norm(x @ weight, (WIDTH,), scale, shift)
    return (y @ weight + _paired(y, theta)).square().sum()


@pytest.mark.parametrize(("loss", "n_made"), [(_after_norm, 1), (_after_root, 1), (_without_a_reason, 0)])
def test_what_a_norm_gives_is_made_again_where_its_input_is_kept(
    loss: Callable[[Sequence[Tensor], Tensor, Tensor], Tensor], n_made: int
) -> None:
    module, given = _traced(loss, torch.randn(3, 5, WIDTH))
    expected, n_waiting = _run(module, given), _n_waiting(module)
    assert compute_again(module) == n_made
    assert _n_waiting(module) == n_waiting - n_made
    for ours, theirs in zip(_run(module, given), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5)
    assert compute_again(module) == 0


def _n_waiting(module: GraphModule) -> int:
    """Return how many values of the batch's size are made before the loss and read behind it, views aside."""
    nodes = list(module.graph.nodes)
    place = {node: number for number, node in enumerate(nodes)}
    border = place[nodes[-1].args[0][0]]

    def is_late(node: torch.fx.Node) -> bool:
        views = [user for user in node.users if user.target is aten.view.default]
        return any(place[user] > border for user in node.users) or any(map(is_late, views))

    def is_large(node: torch.fx.Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.numel() == 3 * 5 * WIDTH and value.shape[-1] == WIDTH

    made = [node for node in nodes if node.op == "call_function" and node.target is not aten.view.default]
    return sum(place[node] < border and is_large(node) and is_late(node) for node in made)


def _next_words(values: Sequence[Tensor], theta: Tensor, words: Tensor) -> Tensor:
    table = values[3]
    hidden = functional.embedding(words[:, :-1], table)
    log_p = ((hidden + _paired(hidden, theta)) @ table.T).log_softmax(-1)
    return -log_p.gather(-1, words[:, 1:].unsqueeze(-1)).mean()


def test_the_gradient_of_a_picked_word_is_scattered_into_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.randint(WORDS, (3, 8), generator=torch.Generator().manual_seed(1))
    module, given = _traced(_next_words, words)
    monkeypatch.setattr("export.trace.gradients_of_picked", lambda _graph: 0)
    plainly, _ = _traced(_next_words, words)
    for ours, theirs in zip(_run(module, given), _run(plainly, given), strict=True):
        assert torch.equal(ours, theirs)
    kinds, kinds_before = ([node.target for node in one.graph.nodes] for one in (module, plainly))
    assert kinds_before.count(aten.full.default) > kinds.count(aten.full.default)
    assert aten.sub.Tensor in kinds_before
    assert aten.sub.Tensor not in kinds
