"""Pass: a task model becomes two graphs of plain tensor operations, one of the training step and one of the logits.

Laws: the graphs are functions of (frozen tensors, flat adapter, batch) with no state; batch and sequence stay symbols
from end to end. The backward is derived here, once, by autograd, so that a device needs no autograd. No gradient is
computed that the adapter does not need: nothing flows below the lowest adapted layer. The optimiser stays outside.

Source: the recipe and the traps of ``docs/export.md``, measured before this was written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions
from torch.export import Dim, ExportedProgram, export
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from export import decompositions
from export.activations import keep_slopes
from export.narrow import narrow
from models import text_classification as task
from models.adapters import Trainable, named_trainables

__all__ = ["Step", "trace"]

# The example that the tracer sees. Two primes that occur as no dimension of a model, so that a size of the example
# that leaked into the graph would break the parity check instead of agreeing with it by accident.
EXAMPLE_BATCH = 5
EXAMPLE_TOKENS = 11
# Sizes 0 and 1 are specialised by torch's tracer, so the symbols begin at 2; that one graph is right at 1 as well is
# proven by the parity pass and by tests/export/test_graphs.py, not assumed.
LEAST = 2
# No bound that a device could reach; torch wants one to reason with.
MOST_BATCH = 4096

Decompositions = dict[Any, Callable[..., object]]


@dataclass(frozen=True, slots=True)
class Step:
    """One traced function: ``graph(frozen, theta, *batch)`` -> tuple of tensors."""

    graph: GraphModule
    frozen: dict[str, Tensor]  # name -> value, in the order of the graph's first argument
    theta: Tensor  # float32 [n_params], the example and initial adapter
    batch: tuple[Tensor, ...]  # the example batch
    inputs: tuple[str, ...]  # names of the batch's tensors
    outputs: tuple[str, ...]


def trace(model: nn.Module, layout: Sequence[Trainable], *, theta: Tensor, max_tokens: int) -> tuple[Step, Step]:
    """Return the training step and the evaluation step of a model with an adapter.

    Requires: ``model(input_ids, attention_mask)`` -> logits, dropout 0, eager attention; ``layout`` in theta's order.
    Ensures: train -> (loss [], grad [n_params]); evaluate -> (logits [batch, n_labels],); both with symbolic batch and
    sequence, free of assertions and of dead code.
    """
    batch = _example()
    program = _forward(model, batch[:2], max_tokens)
    forward, to_train = program.module(check_guards=False), keep_slopes(program.module(check_guards=False))
    trained = {f"model.{t.parameter}": t for t in layout}
    tensors = dict(forward.named_parameters()) | dict(forward.named_buffers())
    frozen = {name: value.detach() for name, value in tensors.items() if name not in trained}

    def logits(module: nn.Module, values: Sequence[Tensor], theta: Tensor, *tokens: Tensor) -> Tensor:
        adapter = {f"model.{name}": value for name, value in named_trainables(theta, layout).items()}
        result: Tensor = torch.func.functional_call(
            module, {**dict(zip(frozen, values, strict=True)), **adapter}, tokens
        )
        return result

    def train(values: Sequence[Tensor], theta: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        *tokens, labels = batch
        grad, loss = torch.func.grad_and_value(lambda t: task.loss(logits(to_train, values, t, *tokens), labels))(theta)
        return loss, grad

    def evaluate(values: Sequence[Tensor], theta: Tensor, *tokens: Tensor) -> tuple[Tensor]:
        return (logits(forward, values, theta, *tokens),)

    def step(function: Callable[..., object], n_inputs: int, outputs: tuple[str, ...]) -> Step:
        graph = _plain(function, list(frozen.values()), theta, batch[:n_inputs])
        names = (*task.INPUT_NAMES, "labels")[:n_inputs]
        return Step(graph, frozen, theta, batch[:n_inputs], names, outputs)

    return step(train, 3, ("loss", "grad")), step(evaluate, 2, ("logits",))


def _example() -> tuple[Tensor, Tensor, Tensor]:
    shape = (EXAMPLE_BATCH, EXAMPLE_TOKENS)
    ids = torch.ones(shape, dtype=torch.int64)
    return ids, torch.ones(shape, dtype=torch.int64), torch.zeros(EXAMPLE_BATCH, dtype=torch.int64)


def _forward(model: nn.Module, tokens: tuple[Tensor, ...], max_tokens: int) -> ExportedProgram:
    """Return the forward as a graph of core operations; the model's own mask code cannot be differentiated as it is."""
    sizes = {0: Dim("batch", min=LEAST, max=MOST_BATCH), 1: Dim("seq", min=LEAST, max=max_tokens)}
    program = export(task.Classifier(model), tokens, dynamic_shapes=(sizes, sizes), strict=False)
    narrow(program.graph_module.graph)
    program.graph_module.recompile()
    # Decomposing BEFORE differentiating: otherwise batch and sequence are baked into the backward.
    decomposed: ExportedProgram = program.run_decompositions()
    return decomposed


def _plain(
    function: Callable[..., object], frozen: list[Tensor], theta: Tensor, batch: tuple[Tensor, ...]
) -> GraphModule:
    """Return ``function`` as a graph of core ATen operations with symbolic sizes."""
    table: Decompositions = {**core_aten_decompositions(), **decompositions.TABLE}
    tracer = make_fx(function, decomposition_table=table, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    graph = tracer(frozen, theta, *batch)
    for node in graph.graph.nodes:
        if "assert" in str(node.target):
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
