"""Each term against its closed form, and the whole on a bundle that trains for real."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_agent.trainer.continual.distillation import relabelled
from edge_agent.trainer.continual.elastic import Memory, consolidated, fisher_information, with_spring
from edge_agent.trainer.continual.remembering import load_memory
from edge_agent.trainer.continual.replay import mixed, replayed_batches
from edge_agent.trainer.jobs import train
from protocol import codec
from protocol.continual import ContinualTerms
from protocol.errors import ConfigError
from protocol.jobs import UPDATE_FILE, TrainJob
from protocol.plan import Codec, Optimizer, Plan, SampleDp
from tests.edge_agent.trainer.bag_of_words import N_PARAMS, knowing, write_bundle

if TYPE_CHECKING:
    from pathlib import Path

SGD = Optimizer(name="sgd", learning_rate=0.5, weight_decay=0.0, beta1=0.0)
PLAN = Plan(epochs=20, batch_size=4, optimizer=SGD, codec=Codec(name="float32"), seed=3)
GOOD, BAD = {"text": "good film", "label": 1}, {"text": "bad film", "label": 0}


class Rows:
    """A dataset of one number an example."""

    def __init__(self, n: int) -> None:
        self.lengths = np.ones(n, np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: Any) -> dict[str, Any]:
        return {"x": np.asarray(rows, np.float32)}


def test_the_spring_is_the_gradient_of_its_energy() -> None:
    rng = np.random.default_rng(0)
    theta, anchor, fisher = (rng.normal(size=6) for _ in range(3))
    memory = Memory(anchor=anchor.astype(np.float32), fisher=np.abs(fisher).astype(np.float32))

    def energy(at: np.ndarray) -> float:
        return float(1.5 * (memory.fisher * (at - memory.anchor) ** 2).sum())  # strength / 2 = 1.5

    zero = np.zeros(6, np.float32)
    slope = with_spring(zero, theta.astype(np.float32), memory, 3.0)
    for i in range(6):
        step = np.eye(6)[i] * 1e-5
        assert slope[i] == pytest.approx((energy(theta + step) - energy(theta - step)) / 2e-5, abs=1e-4)
    assert with_spring(zero, zero, None, 3.0) is zero
    assert with_spring(zero, zero, memory, None) is zero


def test_fisher_information_is_the_mean_square_of_single_gradients() -> None:
    seen: list[int] = []

    def step(theta: np.ndarray, batch: dict[str, Any]) -> tuple[float, np.ndarray]:
        seen.append(len(batch["x"]))
        return 0.0, np.full(theta.size, batch["x"][0], np.float32)

    found = fisher_information(step, np.zeros(2, np.float32), Rows(5), rng=np.random.default_rng(0))
    assert found == pytest.approx([np.mean(np.arange(5) ** 2)] * 2)
    assert seen == [1] * 5  # the square of a mean is not the mean of squares


def test_consolidated_information_has_mean_one_and_decays() -> None:
    theta = np.ones(2, np.float32)
    first = consolidated(None, theta, np.array([1.0, 3.0], np.float32))
    assert first.fisher == pytest.approx([0.5, 1.5])
    second = consolidated(first, 2 * theta, np.array([2.0, 2.0], np.float32), decay=0.5)
    assert second.fisher == pytest.approx([1.25, 1.75])
    assert second.anchor == pytest.approx([2.0, 2.0])
    assert consolidated(None, theta, np.zeros(2, np.float32)).fisher == pytest.approx([0, 0])


def test_drawn_labels_follow_the_former_models_probabilities() -> None:
    n, logits = 20_000, np.log(np.array([0.2, 0.5, 0.3], np.float32))
    batch = {"labels": np.zeros(n, np.int64)}
    drawn = relabelled(batch, {"logits": np.tile(logits, (n, 1))}, rng=np.random.default_rng(1))["labels"]
    assert np.bincount(drawn) / n == pytest.approx([0.2, 0.5, 0.3], abs=0.015)  # four standard deviations
    assert (batch["labels"] == 0).all()
    with pytest.raises(ConfigError, match="one label an example"):
        relabelled(batch, {"losses": logits}, rng=np.random.default_rng(1))


def test_replay_shows_every_kept_example_before_any_again() -> None:
    stream = replayed_batches(Rows(7), batch_size=3, rng=np.random.default_rng(0))
    shown = [int(x) for _ in range(6) for x in next(stream)["x"]]
    assert sorted(shown[:7]) == sorted(shown[7:]) == list(range(7))
    assert mixed(np.ones(2, np.float32), np.zeros(2, np.float32), fraction=0.25) == pytest.approx([0.75] * 2)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    for name, rows in {"first": [GOOD] * 12, "second": [BAD] * 12}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def trained(here: Path, data: str, start: np.ndarray, name: str, *, plan: Plan = PLAN, **more: Any) -> np.ndarray:
    """Return the adapter after local training on ``data`` from ``start``."""
    out = here / name
    out.mkdir()
    (out / "adapter").write_bytes(codec.encode(start, Codec(name="float32")))
    job = TrainJob(
        bundle=str(here / "bundle"),
        data=str(here / f"{data}.jsonl"),
        out=str(out),
        plan=plan,
        adapter=str(out / "adapter"),
        **more,
    )
    train(job, lambda _: None, started=0.0)
    theta: np.ndarray = start + codec.decode((out / UPDATE_FILE).read_bytes(), n_values=N_PARAMS)
    return theta


def says_good(theta: np.ndarray) -> float:
    """Return by how much the model prefers label 1 for "good film"."""
    table = theta.reshape(-1, 2)
    return float((table[10] + table[12]) @ [-1, 1])


def with_terms(**terms: float) -> Plan:
    return replace(PLAN, continual=ContinualTerms(**terms))


def test_each_term_forgets_less_than_none(here: Path) -> None:
    zero = np.zeros(N_PARAMS, np.float32)
    first = trained(here, "first", zero, "a", plan=with_terms(ewc_strength=1.0, lwf_weight=1.0))
    memory = load_memory(here / "a", N_PARAMS)
    assert memory.anchor == pytest.approx(first, abs=1e-6)
    assert memory.fisher.mean() == pytest.approx(1.0)
    naive = says_good(trained(here, "second", first, "naive"))
    assert says_good(first) > naive + 0.5  # "film" now speaks for 0
    ways: dict[str, tuple[dict[str, float], dict[str, str]]] = {
        "replay": ({"replay_fraction": 0.5}, {"replay": str(here / "first.jsonl")}),
        "ewc": ({"ewc_strength": 1.0}, {"memory": str(here / "a")}),
        "lwf": ({"lwf_weight": 2.0}, {"memory": str(here / "a")}),
    }
    for name, (terms, more) in ways.items():
        theta = trained(here, "second", first, name, plan=with_terms(**terms), **more)
        assert says_good(theta) > naive + 0.1, name


def test_terms_without_material_change_no_bit(here: Path) -> None:
    start = knowing(good=0.3)
    plain = trained(here, "first", start, "plain")
    terms = with_terms(replay_fraction=0.5, ewc_strength=5.0, lwf_weight=1.0)
    assert (trained(here, "first", start, "terms", plan=terms) == plain).all()


def test_the_same_job_gives_the_same_bytes(here: Path) -> None:
    start = knowing(good=0.3)
    trained(here, "first", start, "m", plan=with_terms(ewc_strength=1.0))
    plan = with_terms(replay_fraction=0.3, ewc_strength=1.0, lwf_weight=1.0)
    more = {"replay": str(here / "first.jsonl"), "memory": str(here / "m")}
    once, again = (trained(here, "second", start, name, plan=plan, **more) for name in ("x", "y"))
    assert (once == again).all()


def test_sample_privacy_does_not_go_with_kept_examples(here: Path) -> None:
    plan = replace(with_terms(replay_fraction=0.5), dp=SampleDp(clip=1.0, noise_multiplier=1.0))
    with pytest.raises(ConfigError, match="kept examples count too"):
        trained(here, "first", knowing(), "dp", plan=plan)


def test_a_missing_memory_is_one_line(here: Path) -> None:
    with pytest.raises(ConfigError, match="no memory"):
        trained(here, "first", knowing(), "none", plan=with_terms(ewc_strength=1.0), memory=str(here))
