from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.adapters.personal_part import PersonalFacts, keep_personal
from edge_agent.adapters.scores import ScoreState, save_scores
from edge_agent.stream_status import read_stream, stream_lines

if TYPE_CHECKING:
    from pathlib import Path


def test_a_device_without_a_stream_has_no_line(tmp_path: Path) -> None:
    assert stream_lines(read_stream(tmp_path)) == []


def test_the_score_the_exams_and_the_personal_part_are_lines(tmp_path: Path) -> None:
    rows = ((0.9,), (0.6, 0.8))
    save_scores(tmp_path, ScoreState(n_tested=200, n_right=150, recent="10", n_drifts=1, rows=rows))
    (tmp_path / "v").write_bytes(b"1234")
    facts = PersonalFacts(
        task="reviews",
        bundle_id="a" * 64,
        version=4,
        n_examples=90,
        n_exam=10,
        global_accuracy=0.7,
        personal_accuracy=0.9,
        unix_s=1.0,
    )
    keep_personal(tmp_path, tmp_path / "v", facts)
    assert stream_lines(read_stream(tmp_path)) == [
        ("stream", "right before it learnt: 50.0% lately, 75.0% over all 200; drifted 1 times"),
        ("exams", "average accuracy 70.0% over 2 stretches, forgetting 30.0 points, backward transfer -30.0 points"),
        ("personal", "reviews: 90.0% against 70.0% without, on 10 exam examples at version 4"),
    ]


def test_a_damaged_score_is_none(tmp_path: Path) -> None:
    save_scores(tmp_path, ScoreState(n_tested=1))
    (tmp_path / "local" / "scores.json").write_text("[" * 100_000)
    assert read_stream(tmp_path) is None
