"""The gradient of each example by one graph, over every way in which a trained weight is used."""

import functools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.example_rows import ExampleRows
from export.per_example import clipped_sum, refuse_large
from export.trace import Step, trace_losses
from models.adapters import Trainable, flatten, named_trainables
from models.causal_lm import CAUSAL_LM
from models.forecasting import FORECASTING
from models.task import Task
from models.text_classification import TEXT_CLASSIFICATION
from models.token_classification import TOKEN_CLASSIFICATION
from protocol.errors import ConfigError
from protocol.per_example import RADIUS

CLOSE = 1e-5  # of a row to a batch of one, both float32: what issue 3 asks for; measured 4e-7
WIDTH, WORDS, LABELS = 6, 19, 3


class Net(nn.Module):
    """A trained weight in each way that adapters use one: in products, sums, tables, tied, beside the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.config = None
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.places = nn.Parameter(torch.randn(40, WIDTH))
        self.prompt = nn.Parameter(torch.randn(2, WIDTH))
        self.prefix = nn.Parameter(torch.randn(3, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.factors = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.low, self.high = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)
        self.frozen = nn.Linear(WIDTH, WIDTH)
        self.names = nn.Parameter(torch.randn(LABELS, 4, WIDTH))  # of the classes: computed without the batch
        self.namer = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places[: ids.shape[1]]  # [batch, seq, width]
        virtual = self.prompt.unsqueeze(0).expand(x.shape[0], -1, -1)
        x = torch.cat([x[:, :1], virtual, x[:, 1:]], 1)
        x = self.norm(x)
        x = functional.gelu(self.frozen(x)) * self.factors + 2.0 * self.high(self.low(x))
        keys = torch.cat([self.prefix.unsqueeze(0).expand(x.shape[0], -1, -1), x], 1)
        shares = (x @ keys.transpose(1, 2)).softmax(-1)  # [batch, seq + 2, seq + 5]
        x = shares @ keys + x @ self.words.weight.T @ self.words.weight  # tied
        pooled = (x[:, 2:] * mask.unsqueeze(-1)).sum(1)  # [batch, width]
        classes = functional.gelu(self.namer(self.names)).mean(1).softmax(-1)  # [class, width]
        return pooled @ classes.T


@functools.cache
def net() -> tuple[Net, tuple[Trainable, ...], Step]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = Net()
        torch.nn.init.normal_(model.norm.weight)
    parts = tuple(
        Trainable(parameter=name, name=name, shape=tuple(value.shape), role="base", layer=None, scale=1.0)
        for name, value in model.named_parameters()
        if not name.startswith("frozen")
    )
    return model, parts, traced(model, parts)


def traced(model: nn.Module, parts: tuple[Trainable, ...]) -> Step:
    task = replace(TEXT_CLASSIFICATION, wrap=Wrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trace_losses(model, task, parts, theta=flatten(model, parts), max_tokens=30)  # type: ignore[arg-type]


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.model(ids, mask)
        return logits


def batch(n_examples: int, n_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(n_examples * 100 + n_tokens)
    lengths = rng.integers(1, n_tokens + 1, n_examples)
    mask = (np.arange(n_tokens) < lengths[:, None]).astype(np.int64)
    ids = rng.integers(1, WORDS, (n_examples, n_tokens)) * mask
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(rng.integers(0, LABELS, n_examples))


def alone(model: Net, parts: tuple[Trainable, ...], theta: Tensor, ids: Tensor, mask: Tensor, label: Tensor) -> Tensor:
    vector = theta.clone().requires_grad_()
    logits = torch.func.functional_call(model, named_trainables(vector, parts), (ids, mask))
    (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, label), vector)
    return gradient


@pytest.mark.parametrize(("n_examples", "n_tokens"), [(1, 4), (2, 3), (5, 1), (5, 9), (16, 2), (7, 30)])
def test_rows_are_the_gradients_of_batches_of_one_and_add_up_to_that_of_the_batch(
    n_examples: int, n_tokens: int
) -> None:
    model, parts, step = net()
    given, frozen = batch(n_examples, n_tokens), list(step.frozen.values())
    losses, pieces = ExampleRows(step.graph, n_batch=3)(frozen, step.theta, *given)
    rows = torch.cat(pieces, 1)  # [batch, n_params]
    of_batch = step.graph(frozen, step.theta, *given)[1]
    assert losses.shape == (n_examples,)
    assert float((rows.sum(0) - of_batch).norm()) <= CLOSE * float(of_batch.norm())
    for i, row in enumerate(rows):
        expected = alone(model, parts, step.theta, *(one[i : i + 1] for one in given))
        assert float((row - expected).norm()) <= CLOSE * float(expected.norm())


@pytest.mark.parametrize("clip", [1e-3, 0.5, 1e3])
def test_no_row_is_longer_than_the_clip_and_short_ones_are_as_they_were(clip: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        rows = torch.randn(6, 300) * torch.tensor([1e-4, 1e-2, 1.0, 1e3, 1e20, 0.0]).unsqueeze(1)
    for i, row in enumerate(rows):
        counts = torch.zeros(6)
        counts[i] = 1
        norms, points = clipped_sum([rows[:, :100], rows[:, 100:]], counts, torch.tensor(clip))
        assert float(norms[i]) == pytest.approx(float(row.double().norm()), rel=1e-6)
        assert int((points.long() ** 2).sum()) <= RADIUS**2
        expected = row.double() * min(1.0, clip / max(float(row.double().norm()), 1e-30))
        assert float((points.double() * clip / RADIUS - expected).norm()) <= clip * 2e-5


def test_an_example_that_counts_zero_has_no_part() -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    _, both = clipped_sum([rows], torch.tensor([1.0, 0.0, 1.0]), torch.tensor(1.0))
    _, fewer = clipped_sum([rows[[0, 2]]], torch.ones(2), torch.tensor(1.0))
    assert torch.equal(both, fewer)


class Foreign(nn.Module):
    """A weight whose gradient goes through an operation without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.config = None
        self.table = nn.Parameter(torch.ones(WORDS, LABELS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return (functional.embedding(ids, self.table.cumsum(0)) * mask.unsqueeze(-1)).sum(1)


def test_what_no_rule_is_written_for_is_refused_by_its_name() -> None:
    part = Trainable(parameter="table", name="table", shape=(WORDS, LABELS), role="base", layer=None, scale=1.0)
    step = traced(Foreign(), (part,))
    with pytest.raises(ConfigError, match=r"--per-example: .*aten\.\w+.*batch of one"):
        ExampleRows(step.graph, n_batch=3)


def test_so_many_parameters_that_a_batch_of_gradients_fits_no_device_are_refused() -> None:
    refuse_large(1 << 22)
    with pytest.raises(ConfigError, match="trained parameters"):
        refuse_large((1 << 22) + 1)


def random_batch(task: Task, n: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return logits and a batch of a task on two classes or words, or on series."""
    draw = torch.Generator().manual_seed(n)
    if task.kind == "forecasting":
        series, future = torch.randn(n, 9, 2, generator=draw), torch.randn(n, 4, 2, generator=draw)
        return torch.randn(n, 4, 2, generator=draw), (series, future)
    ids, mask, labels = batch(n, 8)
    if task.kind == "text-classification":
        return torch.randn(n, LABELS, generator=draw), (ids, mask, labels)
    logits = torch.randn(n, 8, WORDS, generator=draw)
    if task.kind == "causal-lm":
        return logits[:, :-1], (ids, mask)
    return logits, (ids, mask, torch.where(mask > 0, ids, -100))


@pytest.mark.parametrize(
    "task", [TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION, CAUSAL_LM, FORECASTING], ids=lambda task: task.kind
)
@pytest.mark.parametrize("n", [1, 5])
def test_an_examples_loss_is_that_of_a_batch_of_one(task: Task, n: int) -> None:
    logits, given = random_batch(task, n)
    assert task.losses is not None
    losses = task.losses(logits, *given)
    for i in range(n):
        one = task.loss(logits[i : i + 1], *(value[i : i + 1] for value in given))
        assert float(losses[i]) == pytest.approx(float(one), rel=1e-6)
