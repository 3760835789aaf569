"""Files that appear and files that grow: every whole row once, whatever happens to the process or the file."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.adapters.example_store import ExampleStore
from edge_agent.local.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Rig:
    """A store, its sources, and what they took."""

    def __init__(self, here: Path) -> None:
        self.store = ExampleStore(here / "store")
        (here / "inbox").mkdir()
        self.here, self.taken = here, list[dict[str, Any]]()
        self.sources = Sources(watch=(here / "inbox", here / "none"), append=(here / "log.jsonl", here / "log.csv"))

    def turn(self) -> list[dict[str, Any]]:
        self.taken = []
        self.sources.turn(self.store, lambda rows, _source: self.taken.extend(rows))
        return self.taken

    def drop(self, name: str, text: str) -> None:
        path = self.here / "inbox" / name
        path.write_text(text)
        os.utime(path, (time.time() - 10, time.time() - 10))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.store.close()


def test_a_growing_file_is_followed_by_whole_lines_also_after_a_restart(rig: Rig) -> None:
    path = rig.here / "log.jsonl"
    path.write_text('{"text": "a"}\n{"te')
    assert rig.turn() == [{"text": "a"}]
    with path.open("a") as file:
        file.write('xt": "b"}\n')
    rig.sources = Sources(watch=(), append=(path,))  # a new process knows from the store how far it was
    assert rig.turn() == [{"text": "b"}]
    assert rig.turn() == []


def test_a_rotated_file_is_read_from_its_beginning(rig: Rig) -> None:
    path = rig.here / "log.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    assert len(rig.turn()) == 2
    path.write_text('{"text": "c"}\n')
    assert rig.turn() == [{"text": "c"}]


def test_a_csv_keeps_its_head_and_reads_labels_as_numbers(rig: Rig) -> None:
    path = rig.here / "log.csv"
    path.write_text('text,label\n"good, really",1\n')
    assert rig.turn() == [{"text": "good, really", "label": 1}]
    with path.open("a") as file:
        file.write("bad,0\n")
    assert rig.turn() == [{"text": "bad", "label": 0}]


def test_a_file_that_appears_is_read_once_and_again_only_where_it_grew(rig: Rig) -> None:
    rig.drop("a.jsonl", '{"text": "a"}')  # no line end: it is whole all the same
    rig.drop("b.txt", "nothing of ours")
    assert rig.turn() == [{"text": "a"}]
    assert rig.turn() == []
    rig.drop("c.csv", "text,label\nx,1\ny,0\n")
    assert [row["text"] for row in rig.turn()] == ["x", "y"]


def test_a_file_that_is_still_coming_waits(rig: Rig) -> None:
    (rig.here / "inbox" / "a.jsonl").write_text('{"text": "half')
    assert rig.turn() == []
    rig.drop("a.jsonl", '{"text": "whole"}\n')
    assert rig.turn() == [{"text": "whole"}]


def test_lines_that_are_no_rows_are_skipped(rig: Rig) -> None:
    rig.drop("a.jsonl", '\n[1]\nnot json\n{}\n{"text": "a"}\n"x"\n' + "[" * 100_000 + "\n\xff\n")
    assert rig.turn() == [{"text": "a"}]


def test_a_line_without_an_end_is_left_behind(rig: Rig) -> None:
    path = rig.here / "log.jsonl"
    path.write_bytes(b"x" * (5 << 20))
    assert rig.turn() == []
    with path.open("ab") as file:
        file.write(b'\n{"text": "a"}\n')
    for _ in range(3):
        if rig.turn():
            break
    assert rig.taken == [{"text": "a"}]


def test_a_pipe_and_a_folder_are_no_sources(rig: Rig) -> None:
    os.mkfifo(rig.here / "log.jsonl")
    (rig.here / "inbox" / "a.jsonl").mkdir()
    assert rig.turn() == []
