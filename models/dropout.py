"""Dropout whose masks come from outside: the same model, where every dropout multiplies by a mask that it is given.

A place is a call of torch's dropout in the forward, whatever the rate that the model was pretrained with: those of the
architecture (after embeddings, attention and feed-forward, on attention's shares) and that before each LoRA pair.

Laws: the places and their order are those of one forward; a mask is uint8, and kept values are divided by 1 - rate; the
rest of the model stays in evaluation mode, so that nothing else becomes random. ``places`` runs the model on four tiny
batches and finds each mask's shape as a sum of a constant, the batch and the sequence, or refuses.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from models.task import Task
from protocol.dropout import AxisFacts, DropoutFacts
from protocol.errors import ConfigError

__all__ = ["Dropped", "places"]

# Batch and tokens of the forwards that find the shapes: one, one more example, two more tokens, both.
_SIZES = ((2, 5), (3, 5), (2, 7), (3, 7))

Answer = Callable[[Tensor], Tensor]


class _Answered(TorchFunctionMode):
    """While it is on, every dropout is what ``answer`` makes of its input."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - torch's protocol
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        if func is functional.dropout:
            return self._answer(cast("Tensor", args[0] if args else (kwargs or {})["input"]))
        return func(*args, **(kwargs or {}))


class Dropped(nn.Module):
    """A task's module that takes its masks behind its inputs; parameters have the names that they had."""

    def __init__(self, wrapped: nn.Module, facts: DropoutFacts, *, n_inputs: int) -> None:
        """Wrap what ``Task.wrap`` made."""
        super().__init__()
        self.model = wrapped.model
        self._forward: Callable[..., Tensor] = wrapped.forward
        self._scale, self._n_inputs = 1 / (1 - facts.rate), n_inputs

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the logits of inputs and masks."""
        masks: Iterator[Tensor] = iter(tensors[self._n_inputs :])
        with _Answered(lambda x: x * (next(masks).to(x.dtype) * self._scale)):
            return self._forward(*tensors[: self._n_inputs])


def places(model: PreTrainedModel, task: Task, *, rate: float) -> DropoutFacts:
    """Return where values may be dropped in the training forward of a task's model.

    Raises:
        ConfigError: the model has no dropout, or a mask's shape is no such sum (the model's fault).
    """
    wrapped, found = task.wrap(model), []
    for n_examples, n_tokens in _SIZES:
        shapes: list[tuple[int, ...]] = []

        def note(x: Tensor, into: list[tuple[int, ...]] = shapes) -> Tensor:
            into.append(tuple(x.shape))
            return x

        with torch.no_grad(), _Answered(note):
            wrapped(*task.example(model.config, n_examples, n_tokens)[: len(task.inputs)])
        found.append(shapes)
    if not found[0]:
        message = "--dropout: this model has no dropout, and no LoRA pair before which there could be one"
        raise ConfigError(message)
    return DropoutFacts(
        rate=rate,
        shapes=tuple(tuple(_axis(axis) for axis in zip(*one, strict=True)) for one in zip(*found, strict=True)),
    )


def _axis(lengths: tuple[int, ...]) -> AxisFacts:
    (first_batch, first_seq), first = _SIZES[0], lengths[0]
    batch, seq = lengths[1] - first, (lengths[2] - first) // (_SIZES[2][1] - first_seq)
    axis = AxisFacts(constant=first - batch * first_batch - seq * first_seq, batch=batch, seq=seq)
    if tuple(axis.length(n_examples=n, n_tokens=t) for n, t in _SIZES) != lengths:
        message = f"--dropout: a place of this model has {lengths} values for batches of {_SIZES}, which is no sum"
        raise ConfigError(message)
    return axis
