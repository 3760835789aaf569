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
from transformers import PreTrainedModel

from export import decompositions
from export.activations import keep_slopes
from export.again import compute_again
from export.checkpoint import checkpoint_layers
from export.narrow import narrow
from export.picked import gradients_of_picked
from models.adapters import Trainable, named_trainables
from models.dropout import Dropped
from models.task import Task
from protocol.dropout import DropoutFacts, mask_name
from protocol.errors import ConfigError, LocalProtocolError

__all__ = ["Step", "forward_program", "plain", "trace", "trace_losses"]

# The example that the tracer sees has two of these sizes, batch and sequence. The tracer takes sizes that are equal for
# the same size, so they must occur as no dimension of the model (``--labels 5``, a picture of five tokens); as primes
# they are no product of its dimensions either.
PRIMES = (5, 11, 7, 13, 17, 19, 23, 29, 31, 37)
# Sizes 0 and 1 are specialised by torch's tracer, so the symbols begin where neither they nor what is cut off them (a
# sequence without its first token) can be one; that one graph is right at 1 and 2 as well is proven by the parity pass
# and by tests/export/test_graphs.py, not assumed.
LEAST = {"batch": 2, "seq": 4}
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
    free: tuple[frozenset[int], ...]  # of each of ``batch``, the axes of a length that the device chooses
    inputs: tuple[str, ...]  # names of the batch's tensors
    outputs: tuple[str, ...]


def trace(  # noqa: PLR0913 - what a person chooses of the graph
    model: PreTrainedModel,
    task: Task,
    layout: Sequence[Trainable],
    *,
    theta: Tensor,
    max_tokens: int,
    checkpoint: bool = False,
    dropout: DropoutFacts | None = None,
) -> tuple[Step, Step]:
    """Return the training step and the evaluation step of a task's model with an adapter.

    Requires: dropout 0, eager attention; ``layout`` in theta's order.
    Ensures: train -> (loss [], grad [n_params]); evaluate -> the task's outputs; both with symbolic batch and, for
    text, sequence, free of assertions and of dead code. With ``dropout`` its masks are further inputs of train.
    """
    n_examples, n_tokens = _example_sizes(model)
    batch = task.example(model.config, n_examples, n_tokens)
    n_inputs = len(task.inputs)
    program = _forward(task.wrap(model), task, batch[:n_inputs], max(max_tokens, n_tokens))
    masks: tuple[Tensor, ...] = ()
    trained_program = program
    if dropout is not None:
        masks = _example_masks(dropout, n_examples, n_tokens)
        dropped = Dropped(task.wrap(model), dropout, n_inputs=n_inputs)
        trained_program = _forward(dropped, task, (*batch[:n_inputs], *masks), max(max_tokens, n_tokens), dropout)
    forward = _Forward(_module(program), layout)
    to_train = _Forward(_to_train(trained_program, checkpoint=checkpoint), layout, frozen=forward.frozen)

    def train(values: Sequence[Tensor], theta: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        own = batch[: len(batch) - len(masks)]
        inputs = (*own[:n_inputs], *batch[len(own) :])
        grad, loss = torch.func.grad_and_value(lambda t: task.loss(to_train(values, t, *inputs), *own))(theta)
        return loss, grad

    def evaluate(values: Sequence[Tensor], theta: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return task.score(forward(values, theta, *inputs), *inputs)

    def step(function: Callable[..., object], names: tuple[str, ...], outputs: tuple[str, ...]) -> Step:
        values = (*batch, *masks)[: len(names)]
        graph = plain(function, list(forward.frozen.values()), theta, values)
        if function is train:
            compute_again(graph)
        free = (*_free_axes(task), *_free_mask_axes(dropout))[: len(names)]
        return Step(graph, forward.frozen, theta, values, free, names, outputs)

    named = tuple(mask_name(number) for number in range(len(masks)))
    return (
        step(train, (*task.inputs, *task.targets, *named), ("loss", "grad")),
        step(evaluate, task.inputs, task.outputs),
    )


def trace_losses(
    model: PreTrainedModel,
    task: Task,
    layout: Sequence[Trainable],
    *,
    theta: Tensor,
    max_tokens: int,
    checkpoint: bool = False,
) -> Step:
    """Return the step (losses [batch], gradient of their sum [n_params]), each loss that of a batch of one.

    Requires, ensures: as ``trace``; the task has such losses (``Options`` refuses others).

    Raises:
        LocalProtocolError: it has none.
    """
    n_examples, n_tokens = _example_sizes(model)
    batch = task.example(model.config, n_examples, n_tokens)
    n_inputs, losses_of = len(task.inputs), task.losses
    if losses_of is None:
        message = f"{task.kind} has no loss of single examples"
        raise LocalProtocolError(message)
    program = _forward(task.wrap(model), task, batch[:n_inputs], max(max_tokens, n_tokens))
    forward = _Forward(_to_train(program, checkpoint=checkpoint), layout)

    def train(values: Sequence[Tensor], theta: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        def total(theta: Tensor) -> tuple[Tensor, Tensor]:
            losses = losses_of(forward(values, theta, *batch[:n_inputs]), *batch)  # [batch]
            return losses.sum(), losses

        grad, (_, losses) = torch.func.grad_and_value(total, has_aux=True)(theta)
        return losses, grad

    graph = plain(train, list(forward.frozen.values()), theta, batch)
    compute_again(graph)
    names = (*task.inputs, *task.targets)
    return Step(graph, forward.frozen, theta, batch, _free_axes(task), names, ("losses", "grad"))


class _Forward:
    """A forward program as a function of (frozen tensors, adapter, inputs)."""

    def __init__(
        self, module: GraphModule, layout: Sequence[Trainable], *, frozen: dict[str, Tensor] | None = None
    ) -> None:
        """Take the frozen tensors in the order of ``frozen``, or in the module's own."""
        self._module, self._layout = module, layout
        trained = {f"model.{t.parameter}" for t in layout}
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        own = {name: value.detach() for name, value in tensors.items() if name not in trained}
        self.frozen = own if frozen is None else frozen

    def __call__(self, values: Sequence[Tensor], theta: Tensor, *inputs: Tensor) -> Tensor:
        adapter = {f"model.{name}": value for name, value in named_trainables(theta, self._layout).items()}
        frozen = dict(zip(self.frozen, values, strict=True))
        result: Tensor = torch.func.functional_call(self._module, {**frozen, **adapter}, inputs)
        return result


def _to_train(program: ExportedProgram, *, checkpoint: bool) -> GraphModule:
    module = keep_slopes(_module(program))
    if checkpoint:
        checkpoint_layers(module)
    return module


def forward_program(
    model: PreTrainedModel, task: Task, *, max_tokens: int
) -> tuple[ExportedProgram, tuple[Tensor, ...]]:
    """Return a task's model in use as a program of core operations with symbolic sizes, and example inputs."""
    n_examples, n_tokens = _example_sizes(model)
    inputs = task.example(model.config, n_examples, n_tokens)[: len(task.inputs)]
    return _forward(task.infer(model), task, inputs, max(max_tokens, n_tokens)), inputs


def _example_sizes(model: nn.Module) -> tuple[int, int]:
    taken = {size for value in (*model.parameters(), *model.buffers()) for size in value.shape}
    n_examples, n_tokens, *_ = [prime for prime in PRIMES if prime not in taken]
    return n_examples, n_tokens


def _example_masks(dropout: DropoutFacts, n_examples: int, n_tokens: int) -> tuple[Tensor, ...]:
    shapes = ([axis.length(n_examples=n_examples, n_tokens=n_tokens) for axis in one] for one in dropout.shapes)
    return tuple(torch.ones(*shape, dtype=torch.uint8) for shape in shapes)


def _free_axes(task: Task) -> tuple[frozenset[int], ...]:
    return tuple(frozenset(axes) for axes in task.sizes)


def _free_mask_axes(dropout: DropoutFacts | None) -> tuple[frozenset[int], ...]:
    shapes = () if dropout is None else dropout.shapes
    return tuple(frozenset(n for n, axis in enumerate(shape) if axis.batch or axis.seq) for shape in shapes)


def _forward(
    module: nn.Module,
    task: Task,
    inputs: tuple[Tensor, ...],
    max_tokens: int,
    dropout: DropoutFacts | None = None,
) -> ExportedProgram:
    """Return the forward as a graph of core operations; the model's own mask code cannot be differentiated as it is."""
    most = {"batch": MOST_BATCH, "seq": max_tokens}
    # AUTO: behind a soft prompt the tracer finds truths that it cannot prove, such as min(8 s + 24, 16 s + 48) being
    # 8 s + 24, and of a named size it would refuse them. A size that it fixes instead is found by the parity pass.
    sizes = {name: Dim.AUTO(min=LEAST[name], max=most[name]) for name in LEAST}
    free = tuple({axis: sizes[name] for axis, name in axes.items()} for axes in task.sizes[: len(task.inputs)])
    free += tuple(dict.fromkeys(axes, Dim.AUTO) for axes in _free_mask_axes(dropout))
    if isinstance(module, Dropped):
        free = (free,)  # type: ignore[assignment]  # of *tensors
    program = _exported(module, inputs, free)
    narrow(program.graph_module.graph)
    program.graph_module.recompile()
    # Decomposing BEFORE differentiating: otherwise batch and sequence are baked into the backward.
    decomposed: ExportedProgram = program.run_decompositions()
    return decomposed


def _exported(module: nn.Module, inputs: tuple[Tensor, ...], free: tuple[Any, ...]) -> ExportedProgram:
    """Return torch's own export of the forward.

    Raises:
        ConfigError: it cannot be traced, or fails in PyTorch too (the model's fault).
    """
    try:
        return export(module, inputs, dynamic_shapes=free, strict=False)
    except (ConfigError, ImportError, MemoryError):
        raise
    except Exception as error:  # what torch's tracer finds has no class of its own
        message = f"this model's forward cannot be traced, so no graph can be made of it: {_first_line(error)}"
        try:
            with torch.no_grad():
                module(*inputs)
        except Exception as own:  # noqa: BLE001 - likewise of a model's code
            message = f"not even PyTorch runs this model on inputs of its config.json's sizes: {_first_line(own)}"
        raise ConfigError(message) from error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _module(program: ExportedProgram) -> GraphModule:
    """Return the program with every tensor of its own a parameter or a buffer, constants in the model's code too.

    A tensor that code makes from a number (GPT-Neo's mask) becomes a bare attribute, which the lowering would lose.
    """
    module: GraphModule = program.module(check_guards=False)
    known = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target not in known:
            path, _, name = node.target.rpartition(".")
            owner = module.get_submodule(path)
            value = getattr(owner, name)
            delattr(owner, name)
            owner.register_buffer(name, value)
            known[node.target] = value
    return module


def plain(
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
    gradients_of_picked(graph.graph)
    graph.recompile()
    return graph
