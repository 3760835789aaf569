"""Many examples at once give the sum of examples one by one, whatever the batch; a graph that lies is found out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_agent.trainer.example_gradients import InOneGraph, OneByOne, clipped_points, most_rows
from edge_agent.trainer.private_steps import PrivateEpochs
from protocol.errors import BundleError, EngineError
from protocol.per_example import RADIUS
from protocol.plan import Optimizer, Plan, SampleDp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

N_PARAMS = 500
CLIP = 2.0


@dataclass(frozen=True)
class Examples:
    """Examples that are their own gradients, of lengths that do not follow their order."""

    gradients: NDArray[np.float32]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return (np.arange(len(self.gradients)) * 7) % 11

    def __len__(self) -> int:
        return len(self.gradients)

    def batch(self, rows: Sequence[int] | NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {"gradients": self.gradients[np.asarray(rows)]}


@dataclass
class Graph:
    """Both engines on such examples; ``spoil`` is what a bad graph does to the rows that it should clip."""

    spoil: Callable[[NDArray[np.float64]], NDArray[np.float64]] = field(default=lambda rows: rows)
    after: Callable[[NDArray[np.float64]], NDArray[np.float64]] = field(default=lambda points: points)
    passes: list[tuple[int, int]] = field(default_factory=list)  # examples of each pass, and those that count
    n_alone: int = 0

    def loss_and_gradient(
        self, _theta: NDArray[np.float32], batch: dict[str, NDArray[Any]]
    ) -> tuple[float, NDArray[np.float32]]:
        self.n_alone += 1
        (row,) = batch["gradients"]
        return float(row[0]), row

    def clipped_points(
        self, _theta: NDArray[np.float32], batch: dict[str, NDArray[Any]], *, counts: NDArray[np.float32], clip: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        self.passes.append((len(counts), int(counts.sum())))
        given = batch["gradients"]
        rows = self.spoil(given.astype(np.float64))
        norms = np.linalg.norm(rows, axis=1)
        points = np.trunc(rows * (counts * RADIUS * (1 - 2.0**-20) / np.maximum(norms, clip))[:, None])
        return given[:, 0], norms.astype(np.float32), np.nan_to_num(self.after(points)).sum(0).astype(np.int32)

    def scores(self, _theta: NDArray[np.float32], _batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        return {}


def drawn(n: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(5).normal(0, 0.2, (n, N_PARAMS)).astype(np.float32)
    rows[::2] *= 0.1  # shorter than the clip
    return rows


def both(graph: Graph, data: Examples, *, batch_size: int, at_once: int | None = None) -> tuple[InOneGraph, OneByOne]:
    alone = OneByOne(graph, data, clip=CLIP)
    return InOneGraph(graph, alone, data, clip=CLIP, batch_size=batch_size, at_once=at_once), alone


@pytest.mark.parametrize("n", [1, 2, 5, 16, 17, 40])
def test_the_sum_is_that_of_examples_one_by_one_and_those_that_fill_a_pass_count_zero(n: int) -> None:
    data, graph, theta = Examples(drawn(n)), Graph(), np.zeros(N_PARAMS, np.float32)
    many, alone = both(graph, data, batch_size=16)
    losses, points = many.clipped_sum(theta, list(range(n)))
    expected_losses, expected = alone.clipped_sum(theta, list(range(n)))
    assert sorted(losses) == pytest.approx(sorted(expected_losses))
    assert np.abs(points - expected).max() <= n  # a point of the grid for each
    n_passes = math.ceil(n / 16)
    taken = graph.passes[1:]  # after the check
    assert len(taken) == n_passes
    assert len({size for size, _ in taken}) == 1
    assert sum(counted for _, counted in taken) == n


def test_a_plans_micro_batch_bounds_a_pass() -> None:
    data, graph = Examples(drawn(10)), Graph()
    many, _ = both(graph, data, batch_size=16, at_once=4)
    many.clipped_sum(np.zeros(N_PARAMS, np.float32), list(range(10)))
    assert {size for size, _ in graph.passes} == {4}


def test_nothing_drawn_is_nothing_summed() -> None:
    many, _ = both(Graph(), Examples(drawn(3)), batch_size=2)
    losses, points = many.clipped_sum(np.zeros(N_PARAMS, np.float32), [])
    assert not losses
    assert not points.any()


def test_the_graph_is_held_against_single_examples_once() -> None:
    graph = Graph()
    many, _ = both(graph, Examples(drawn(8)), batch_size=8)
    for _ in range(3):
        many.clipped_sum(np.zeros(N_PARAMS, np.float32), list(range(8)))
    assert graph.n_alone == 2
    assert len(graph.passes) == 4


LIES = {
    "another example's gradient": Graph(spoil=lambda rows: np.roll(rows, 1, axis=0)),
    "the mean of all": Graph(spoil=lambda rows: np.broadcast_to(rows.mean(0), rows.shape)),
    "half of what it is": Graph(after=lambda points: points / 2),
    "more than the clip": Graph(after=lambda points: points * 3),
    "examples that count zero": Graph(after=lambda points: points + 1000),
    "nothing": Graph(after=lambda points: points * 0),
}


@pytest.mark.parametrize("name", LIES)
def test_a_graph_that_gives_something_else_ends_the_training(name: str) -> None:
    many, _ = both(LIES[name], Examples(drawn(12)[1::2]), batch_size=6)
    with pytest.raises(BundleError, match="graph of single examples"):
        many.clipped_sum(np.zeros(N_PARAMS, np.float32), list(range(6)))


def test_a_later_sum_beyond_the_clip_is_refused_too() -> None:
    graph = Graph()
    many, _ = both(graph, Examples(drawn(6)), batch_size=6)
    many.clipped_sum(np.zeros(N_PARAMS, np.float32), list(range(6)))
    graph.after = lambda points: points * 100
    with pytest.raises(BundleError, match="beyond"):
        many.clipped_sum(np.zeros(N_PARAMS, np.float32), list(range(6)))


def test_a_gradient_that_is_not_finite_ends_the_training() -> None:
    bad = drawn(4)
    bad[2, 0] = np.nan
    many, _ = both(Graph(), Examples(bad), batch_size=4)
    with pytest.raises(EngineError, match="not finite"):
        many.clipped_sum(np.zeros(N_PARAMS, np.float32), list(range(4)))


def test_more_examples_than_the_noise_covers_are_taken_one_by_one() -> None:
    n = most_rows(2) + 1
    data, graph = Examples(drawn(n)), Graph()
    many, alone = both(graph, data, batch_size=2)
    theta = np.zeros(N_PARAMS, np.float32)
    assert np.array_equal(many.clipped_sum(theta, list(range(n)))[1], alone.clipped_sum(theta, list(range(n)))[1])
    assert not graph.passes


def test_the_noise_grows_by_what_rounding_may_move_in_the_company_of_others() -> None:
    data, dp = Examples(np.zeros((400, N_PARAMS), np.float32)), SampleDp(clip=CLIP, noise_multiplier=1.0)
    plan = Plan(batch_size=400, optimizer=Optimizer(name="sgd", learning_rate=1.0, weight_decay=0.0, beta1=0.0), dp=dp)
    many, alone = both(Graph(), data, batch_size=400)
    assert alone.noise_factor == 1.0
    assert many.noise_factor == pytest.approx(1 + 1e-4 * 1632)
    theta = np.zeros(N_PARAMS, np.float32)
    steps = [
        PrivateEpochs(plan, dp, data, lambda _: None, seed=bytes([i]) * 32).run(way, theta).std()
        for i in range(20)
        for way in (many, alone)
    ]
    assert np.mean(steps[::2]) / np.mean(steps[1::2]) == pytest.approx(many.noise_factor, rel=0.02)


def test_the_company_of_others_moves_a_gradient_on_the_grid_by_far_less_than_is_allowed_for() -> None:
    row = drawn(2)[1]
    rounded = (row * (1 + np.random.default_rng(1).normal(0, 1e-6, N_PARAMS))).astype(np.float32)
    apart = clipped_points(row, clip=CLIP) - clipped_points(rounded, clip=CLIP)
    assert np.linalg.norm(apart) / RADIUS < 1e-4 / 3
