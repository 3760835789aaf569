"""What a round trains on where there is a store: the present stretch, what is kept, and the memory of before."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from edge_agent.adapters.example_store import ExampleStore
from edge_agent.lessons import Lessons, StoreLessons, forget_memories
from protocol.continual import ContinualTerms
from protocol.jobs import ANCHOR_FILE, FISHER_FILE
from protocol.plan import Plan

if TYPE_CHECKING:
    from pathlib import Path

TERMS = Plan(continual=ContinualTerms(replay_fraction=0.5, ewc_strength=1.0))
ROWS = [{"text": "x", "label": 1}] * 5


def test_a_data_file_is_the_whole_lesson(tmp_path: Path) -> None:
    assert Lessons(tmp_path / "x.jsonl").of("t", TERMS).data == str(tmp_path / "x.jsonl")


def test_stretches_have_their_rounds_their_replay_and_their_memory(tmp_path: Path) -> None:
    store, out = ExampleStore(tmp_path / "s"), tmp_path / "out"
    out.mkdir()
    lessons = StoreLessons(tmp_path / "s", tmp_path)
    store.add(ROWS, source="x", exam_every=100)
    first = lessons.of("t", TERMS)
    assert (first.data, first.replay, first.memory) == (str(tmp_path / "s" / "train.rows"), None, None)
    assert lessons.of("t", Plan()).data == str(tmp_path / "s" / "all.rows")
    for round_, byte in ((1, b"a"), (2, b"b")):
        (out / ANCHOR_FILE).write_bytes(byte)
        (out / FISHER_FILE).write_bytes(byte)
        lessons.learnt("t", round_, out)
    assert lessons.of("t", TERMS).memory is None  # the stretch still goes on
    store.begin_stretch(capacity=3, draw=random.Random(0).random)
    second = lessons.of("t", TERMS)
    assert second.replay == str(tmp_path / "s" / "replay.rows")
    assert second.memory is not None
    assert (tmp_path / "memory-t" / "0" / ANCHOR_FILE).read_bytes() == b"b"
    assert store.forget(label=1).lessons == (("t", 1), ("t", 2))
    assert forget_memories(tmp_path) == 1
    assert lessons.of("t", TERMS).memory is None
    store.close()
