"""The owner's commands on the store, as typed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from edge_agent.adapters.example_store import ExampleStore
from edge_agent.examples_cli import examples, forget, label
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import click

CONFIG = '[device]\nfleet = "f"\nid = "d"\nkey = "k"\nbundles = ["b"]\n[store]\nexam_every = 100\n'


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "agent.toml").write_text(CONFIG)
    store = ExampleStore(tmp_path / "examples")
    store.add([{"text": "a", "label": 1}, {"text": "b", "label": 0}], source="x", exam_every=100, unix_s=1000.0)
    store.learnt("reviews", 3)
    store.add([{"text": "c"}], source="y", exam_every=100)
    store.close()
    (tmp_path / "state" / "memory-reviews" / "0").mkdir(parents=True)
    (tmp_path / "state" / "personal-reviews.f32").write_bytes(b"1234")
    (tmp_path / "state" / "residual-00.f32").write_bytes(b"1234")
    return tmp_path


def typed(here: Path, command: click.Command, *words: str) -> str:
    done = CliRunner().invoke(command, [*words, "--config", str(here / "agent.toml")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_examples_are_listed_without_their_content(here: Path) -> None:
    lines = typed(here, examples).splitlines()
    assert lines[0].startswith("3 to train on, 0 kept of earlier stretches, 0 for exams; 1 without a label")
    assert [line.split()[0] for line in lines[1:]] == ["3", "2", "1"]
    found = json.loads(typed(here, examples, "--json", "--unlabelled"))
    assert [one["id"] for one in found["newest"]] == [3]


def test_a_label_is_given_by_hand(here: Path) -> None:
    assert "example 3 has label 1" in typed(here, label, "3", "1")
    assert json.loads(typed(here, examples, "--json"))["counts"]["n_unlabelled"] == 0


def test_forgetting_some_says_what_is_held_and_removes_what_was_derived(here: Path) -> None:
    said = typed(here, forget, "--match-label", "1", "--yes")
    assert "forgotten: 1 examples" in said
    assert "memories of earlier stretches, personal part" in said
    assert "cannot be called back" in said
    assert "reviews, rounds 3" in said
    assert (here / "state" / "residual-00.f32").exists()
    said = typed(here, forget, "--before", "1d", "--yes")
    assert "forgotten: 1 examples" in said


def test_forgetting_all_takes_the_key_too(here: Path) -> None:
    key = (here / "examples" / "key").read_text()
    found = json.loads(typed(here, forget, "--all", "--yes", "--json"))
    assert (found["n_examples"], found["lessons"]) == (3, [["reviews", 3]])
    assert (here / "examples" / "key").read_text() != key
    assert list((here / "state").glob("*.f32")) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "say what to forget"),
        (["--all", "--before", "1d"], "say what to forget"),
        (["--before", "yesterday"], "expected a date"),
    ],
)
def test_a_vague_wish_is_one_line(here: Path, words: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        typed(here, forget, *words, "--yes")


def test_without_a_store_the_commands_say_so(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(CONFIG.split("[store]", maxsplit=1)[0] + '[data]\ntrain = "x.jsonl"\n')
    with pytest.raises(ConfigError, match=r"no \[store\]"):
        typed(tmp_path, examples)
