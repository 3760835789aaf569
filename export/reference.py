"""PyTorch's side of the parity check: the real model, autograd, torch.optim.AdamW.

Laws: nothing here shares code with the traced graph except the loss and the scores; the model's parameters are put back
afterwards. With dropout both sides are given the same masks.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.adapt import Adapted
from export.parity import CLIP_GRAD_NORM, Outcome, optimizer_of
from export.problems import Batch, Problem
from models.adapters import Trainable, flatten, named_trainables
from models.dropout import Dropped
from protocol.dropout import mask_name

__all__ = ["one_step", "run_torch"]


def run_torch(adapted: Adapted, problem: Problem) -> Outcome:
    """Return what PyTorch makes of the problem with the model as it was before tracing."""
    task, parts = adapted.task, adapted.trainables
    model, forward, n_inputs = task.wrap(adapted.model), _forward(adapted), len(task.inputs)
    batches, masks = _inputs(adapted, problem)
    parameters = dict(adapted.model.named_parameters())
    trained = [parameters[part.parameter] for part in parts]
    _assign(parameters, torch.from_numpy(problem.theta), parts)
    facts = optimizer_of(problem)
    optimizer = torch.optim.AdamW(
        trained,
        lr=facts.learning_rate,
        betas=(facts.beta1, facts.beta2),
        eps=facts.epsilon,
        weight_decay=facts.weight_decay,
    )
    losses = []
    try:
        for batch, kept in zip(batches, masks, strict=True):
            optimizer.zero_grad()
            loss = task.loss(forward(*batch[:n_inputs], *kept), *batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
            nn.utils.clip_grad_norm_(trained, CLIP_GRAD_NORM)
            optimizer.step()
            losses.append(float(loss))
        with torch.no_grad():
            inputs = [batch[:n_inputs] for batch in batches]
            logits = tuple(task.score(model(*one), *one)[0].numpy() for one in inputs)
        theta = flatten(adapted.model, parts).numpy().astype(np.float32)
    finally:
        _assign(parameters, torch.from_numpy(adapted.theta), parts)
        optimizer.zero_grad()
    return Outcome(losses=tuple(losses), theta=theta, logits=logits)


def one_step(adapted: Adapted, problem: Problem) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
    """Return the loss of the problem's first batch, its gradient [n_params], and the scores, at the problem's theta."""
    task, parts = adapted.task, adapted.trainables
    (batch, *_), (kept, *_) = _inputs(adapted, problem)
    parameters, own = dict(adapted.model.named_parameters()), batch[: len(task.inputs)]
    _assign(parameters, torch.from_numpy(problem.theta), parts)
    try:
        loss = task.loss(_forward(adapted)(*own, *kept), *batch)
        slopes = torch.autograd.grad(loss, [parameters[part.parameter] for part in parts])
        with torch.no_grad():
            scores = task.score(task.wrap(adapted.model)(*own), *own)[0].numpy()
    finally:
        _assign(parameters, torch.from_numpy(adapted.theta), parts)
    return float(loss), torch.cat([slope.reshape(-1) for slope in slopes]).numpy(), scores


def _forward(adapted: Adapted) -> nn.Module:
    model, facts = adapted.task.wrap(adapted.model), adapted.inputs.dropout
    return model if facts is None else Dropped(model, facts, n_inputs=len(adapted.task.inputs))


def _inputs(adapted: Adapted, problem: Problem) -> tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]]:
    """Return each batch's inputs with its targets, and the masks of what it drops, of none without dropout."""
    task, facts = adapted.task, adapted.inputs.dropout
    names = () if facts is None else tuple(mask_name(number) for number in range(len(facts.shapes)))
    batches = [_tensors(batch, (*task.inputs, *task.targets)) for batch in problem.batches]
    return batches, [_tensors(batch, names) for batch in problem.batches]


def _tensors(batch: Batch, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(batch[name]) for name in names)


def _assign(parameters: dict[str, nn.Parameter], theta: Tensor, parts: tuple[Trainable, ...]) -> None:
    with torch.no_grad():
        for name, value in named_trainables(theta, parts).items():
            parameters[name].copy_(value)
