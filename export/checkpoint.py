"""Pass: keep only what goes from layer to layer, and compute the inside of a layer again in the backward.

The forward of a layer is run twice and its activations live only while its own backward runs. What a layer is comes
from the module tree: the largest groups of numbered siblings of one class (``encoder.layer.0, .1, ...``), of any model
with any number of such groups. The last layer of a group is not computed twice: its backward begins at once.

The recomputation depends on the gradient that has just arrived (by a zero made from it), so no optimiser can merge it
with the first computation, and no runtime can run it early.

Laws: the same function up to rounding; works on the exported forward, before it is differentiated; a model without
repeated layers, or whose layers are entangled, is refused.

Source: Chen et al. 2016, arXiv:1604.06174, one checkpoint a layer.
"""

import re
from collections import defaultdict
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from protocol.errors import ConfigError

__all__ = ["checkpoint_layers"]

_LAYER = re.compile(r"^(.*\.)(\d+)$")  # a numbered child: its siblings' common part and its number


class _Recomputed(torch.autograd.Function):
    """A segment of the forward that keeps its inputs alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(segment: nn.Module, *inputs: object) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", segment(*inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401, ARG004
        ctx.segment = inputs[0]
        ctx.is_tensor = [isinstance(value, Tensor) for value in inputs[1:]]
        ctx.others = [value for value in inputs[1:] if not isinstance(value, Tensor)]
        ctx.save_for_backward(*(value for value in inputs[1:] if isinstance(value, Tensor)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        tensors, others = iter(ctx.saved_tensors), iter(ctx.others)
        inputs = [next(tensors if is_tensor else others) for is_tensor in ctx.is_tensor]
        wanted = [place for place, needs in enumerate(ctx.needs_input_grad[1:]) if needs]
        zero = grads[0].reshape(-1)[:1] * 0.0  # [1]; what ties the recomputation to this moment

        def again(*values: Tensor) -> tuple[Tensor, ...]:
            given = list(inputs)
            for place, value in zip(wanted, values, strict=True):
                given[place] = value
            for place, value in enumerate(given):
                if place in ctx.segment.activations:
                    given[place] = value + zero
            result: tuple[Tensor, ...] = ctx.segment(*given)
            return result

        pull = torch.func.vjp(again, *(inputs[place] for place in wanted))[1]
        found: dict[int, Tensor] = dict(zip(wanted, pull(grads), strict=True))
        return None, *(found.get(place) for place in range(len(inputs)))


class _Segment(nn.Module):
    """A layer's operations as one module without parameters: they come in as inputs."""

    def __init__(self, graph: GraphModule, activations: frozenset[int]) -> None:
        super().__init__()
        self._graph = graph
        self.activations = activations  # the inputs that were computed, not frozen or trained

    def forward(self, *inputs: object) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", self._graph(*inputs))


class _Checkpointed(nn.Module):
    """What stands in the graph in the layer's place."""

    def __init__(self, segment: _Segment) -> None:
        super().__init__()
        self._segment = segment

    def forward(self, *inputs: object) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", _Recomputed.apply(self._segment, *inputs))  # type: ignore[no-untyped-call]


def checkpoint_layers(module: GraphModule) -> int:
    """Let every layer but each group's last keep its inputs alone; return how many do.

    Requires: a forward as ``torch.export`` leaves it, whose nodes know the modules that they come from.
    Ensures: the same outputs and gradients.

    Raises:
        ConfigError: no group of repeated layers, or their operations are mixed (the model's fault).
    """
    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    spans = _spans(nodes)
    if not spans:
        message = "--checkpoint: this model has no two layers of one class beside each other, so nothing can be kept"
        raise ConfigError(message)
    for number, (first, last) in enumerate(spans):
        _replace(module, [node for node in nodes[first : last + 1] if node.graph is module.graph], f"layer_{number}")
    module.graph.lint()
    module.recompile()
    return len(spans)


def _spans(nodes: list[Node]) -> list[tuple[int, int]]:
    """Return the first and last position of each layer that is to be computed again, in order."""
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    kinds: dict[str, set[str]] = defaultdict(set)
    for position, node in enumerate(nodes):
        layer = _outermost_layer(node)
        if layer is not None:
            places[layer[:2]].append(position)
            kinds[layer[0]].add(layer[2])
    groups: dict[str, list[int]] = defaultdict(list)
    for group, number in places:
        if len(kinds[group]) == 1:
            groups[group].append(number)
    spans = sorted(
        (min(places[group, number]), max(places[group, number]))
        for group, numbers in groups.items()
        for number in sorted(numbers)[:-1]
    )
    for (_, end), (start, _) in pairwise(spans):
        if start <= end:
            message = "--checkpoint: the operations of this model's layers are mixed, so none can be computed again"
            raise ConfigError(message)
    return spans


def _outermost_layer(node: Node) -> tuple[str, int, str] | None:
    """Return (group, number, class) of the outermost numbered module that the node comes from."""
    for path, kind in node.meta.get("nn_module_stack", {}).values():
        found = _LAYER.match(path)
        if found is not None:
            return found[1], int(found[2]), str(kind)
    return None


def _replace(module: GraphModule, nodes: list[Node], name: str) -> None:
    """Let one call of a checkpointed segment stand where ``nodes`` stood."""
    inside: set[Node] = set()
    for node in nodes:  # sizes are numbers, not activations: what is computed of sizes alone stays outside
        if isinstance(node.meta.get("val"), Tensor) or any(value in inside for value in node.all_input_nodes):
            inside.add(node)
    nodes = [node for node in nodes if node in inside]
    inputs = list(dict.fromkeys(v for node in nodes for v in node.all_input_nodes if v not in inside))
    outputs = [node for node in nodes if any(user not in inside for user in node.users)]
    if not all(isinstance(node.meta.get("val"), Tensor) for node in outputs):
        message = "--checkpoint: a layer of this model gives what is no tensor, so it cannot be computed again"
        raise ConfigError(message)
    graph = Graph()
    copies: dict[Node, Node] = {}
    for number, value in enumerate(inputs):
        copies[value] = graph.placeholder(f"input_{number}")
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda value: copies[value])
    graph.output(tuple(copies[node] for node in outputs))
    computed = frozenset(place for place, value in enumerate(inputs) if _is_activation(value))
    module.add_submodule(name, _Checkpointed(_Segment(GraphModule({}, graph), computed)))
    with module.graph.inserting_after(nodes[-1]):
        call = module.graph.call_module(name, tuple(inputs))
    place = call
    for index, node in enumerate(outputs):
        with module.graph.inserting_after(place):
            place = module.graph.call_function(_item, (call, index))
        place.meta = dict(node.meta)
        node.replace_all_uses_with(place, delete_user_cb=lambda user: user not in inside)
    for node in reversed(nodes):
        module.graph.erase_node(node)


def _is_activation(value: Node) -> bool:
    """Return whether a value is one that layers hand on: computed floats of a fixed width, and no mask."""
    tensor = value.meta.get("val")
    if value.op != "call_function" or not isinstance(tensor, Tensor):
        return False
    return tensor.is_floating_point() and tensor.dim() > 1 and isinstance(tensor.shape[-1], int)


def _item(values: tuple[Tensor, ...], index: int) -> Tensor:
    return values[index]
