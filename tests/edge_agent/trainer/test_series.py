from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.trainer.series import read_series
from protocol.bundle import SeriesFacts
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

ONE = SeriesFacts(context=3, horizon=2, channels=1)
TWO = SeriesFacts(context=1, horizon=1, channels=2)


def test_windows_follow_each_other_by_one_horizon_from_the_latest(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"series": [0, 1, 2, 3, 4, 5, 6, 7]}\n{"series": [1, 2]}\n')
    data = read_series(tmp_path / "d.jsonl", ONE, max_examples=9)
    batch = data.batch([0, 1])
    assert batch["series"][..., 0].tolist() == [[3, 4, 5], [1, 2, 3]]
    assert batch["future"][..., 0].tolist() == [[6, 7], [4, 5]]
    assert len(data) == 2


def test_a_csv_has_a_column_a_channel(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("heat,load\n1,2\n3,4\n")
    batch = read_series(tmp_path / "d.csv", TWO, max_examples=9).batch([0])
    assert batch["series"].tolist() == [[[1, 2]]]
    assert batch["future"].tolist() == [[[3, 4]]]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("d.csv", "a,b\n1,x\n", r"d\.csv:2: a value is no number"),
        ("d.csv", "a,b\n1,nan\n", "missing, infinite"),
        ("d.csv", "a\n1\n", "1 columns, the model takes 2"),
        ("d.csv", "a,b\n1,2,3\n", "no number|3 columns"),
        ("d.jsonl", '{"series": [1, 2]}\n', "2 a step"),
        ("d.jsonl", '{"series": [[1, 2], [3]]}\n', "2 a step"),
        ("d.jsonl", '{"series": [[1, 1e400], [3, 4]]}\n', "missing, infinite"),
        ("d.jsonl", '{"series": [[1, 2]]}\n', "the longest series has 1 values; the model needs 2"),
        ("d.txt", "1", "read from .jsonl or .csv"),
    ],
)
def test_a_file_that_is_no_series_is_refused_with_the_place(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_series(tmp_path / name, TWO, max_examples=9)
