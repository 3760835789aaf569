"""What is said while an export runs: every pass by name, one JSON object a line where that is asked for."""

import json

import pytest

from export.progress import PASSES, progress


def test_on_a_pipe_every_pass_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as shown:
        shown.watch("trace")
        shown.watch("parity")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "export: trace: derives the backward",
        "export: parity: trains 20 steps against PyTorch",
    ]


def test_as_json_every_pass_is_an_object_with_its_part(capsys: pytest.CaptureFixture[str]) -> None:
    portable = [name for name, one in PASSES.items() if one.engine == "portable"]
    with progress(as_json=True) as shown:
        for name in portable:
            shown.watch(name)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one["name"] for one in events] == portable
    assert all(one["event"] == "pass" and one["does"] for one in events)
    parts = [one["done_fraction"] for one in events]
    assert parts[0] == 0
    assert parts == sorted(parts)
    assert 0.9 < parts[-1] < 1


def test_the_share_of_an_engine_counts_only_where_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    for engines in (("portable",), ("portable", "litert")):
        with progress(engines, as_json=True) as shown:
            shown.watch("pack")
    alone, beside = [json.loads(line)["done_fraction"] for line in capsys.readouterr().err.splitlines()]
    assert alone > beside > 0
