from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from deploy.baselines import Baselines, Scores
from deploy.demo_report import Facts, build_report, write_report
from deploy.demo_view import FleetRecord
from deploy.supervised import FleetEvent
from protocol.jobs import SetResult

if TYPE_CHECKING:
    from pathlib import Path

SETS = ("tweets", "movies")


def event(name: str, source: str = "aggregator", **facts: Any) -> FleetEvent:
    return FleetEvent(source=source, name=name, facts=facts)


def evaluated(version: int, accuracy: float) -> FleetEvent:
    sets = {name: {"accuracy": accuracy, "loss": 0.5, "n_examples": 10} for name in SETS}
    return event("version-evaluated", version=version, pooled_accuracy=accuracy, loss=0.5, sets=sets)


@pytest.fixture
def record() -> FleetRecord:
    one = FleetRecord(broker="embedded")
    for said in (
        event("round-opened", round=1, version=0),
        event("update-accepted", round=1, device="a", bytes=80),
        event("update-accepted", round=1, device="b", bytes=82),
        event("training-done", "a", loss=0.4, peak_memory_bytes=300 * 2**20),
        event(
            "version-folded",
            round=1,
            version=1,
            n_updates=2,
            loss=0.4,
            seconds=3.5,
            train_s_max=3.0,
            bytes_up=200,
            bytes_down=300,
        ),
        event("task-finished", version=1),
        evaluated(0, 0.5),
    ):
        one.take(said)
    return one


def facts(record: FleetRecord) -> Facts:
    alone = {name: Scores(dict.fromkeys(SETS, 0.7), 0.7) for name in SETS}
    return Facts(
        model="<model>",
        data="data",
        float32_bytes=300,
        full_model_bytes=90_000,
        record=record,
        baselines=Baselines(alone, Scores(dict.fromkeys(SETS, 0.9), 0.9)),
        wall_s=12.0,
    )


def test_the_run_is_complete_once_the_last_version_is_evaluated(record: FleetRecord) -> None:
    assert not record.is_complete
    record.take(evaluated(1, 0.8))
    assert record.is_complete


def test_the_same_round_told_twice_is_one_round(record: FleetRecord) -> None:
    record.take(event("round-opened", round=1, version=0))
    assert list(record.rounds) == [1]


def test_the_report_has_what_its_readers_were_promised(record: FleetRecord) -> None:
    record.take(evaluated(1, 0.8))
    report = build_report(facts(record))
    assert report["pooled_accuracy"] == {"untrained": 0.5, "alone_mean": 0.7, "federated": 0.8, "centralised": 0.9}
    assert report["update_bytes"] == {"sent": 81, "float32": 300, "full_model": 90_000}
    assert report["memory_mb"]["trainer_peak"] == 300.0
    (one,) = report["rounds"]
    assert one["pooled_accuracy"] == 0.8
    assert one["seconds"] == 3.5
    assert one["not_training_s"] == 0.5
    assert set(report) >= {"model", "data", "broker", "privacy", "wall_s", "rounds", "per_domain"}


def test_the_page_shows_the_numbers_and_escapes_what_it_is_given(record: FleetRecord, tmp_path: Path) -> None:
    record.take(evaluated(1, 0.8))
    with (tmp_path / "screen").open("w") as screen:
        write_report(tmp_path, build_report(facts(record)), Console(file=screen, width=120))
    page = (tmp_path / "report.html").read_text()
    assert "&lt;model&gt;" in page
    assert "<model>" not in page
    assert "80.0" in page
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "report.json").read_text())["broker"] == "embedded"
    assert "federated" in (tmp_path / "screen").read_text()


def test_pooled_scores_weigh_every_example_alike() -> None:
    results = {
        "small": SetResult(n_examples=10, n_correct=10, loss=0.1),
        "large": SetResult(n_examples=90, n_correct=45, loss=0.9),
    }
    scores = Scores.of(results)
    assert scores.pooled == 0.55
    assert scores.sets == {"small": 1.0, "large": 0.5}
