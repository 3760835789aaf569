"""The encrypted store: nothing in the clear, bounds, the reservoir, forgetting."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.example_store import ExampleStore
from edge_agent.adapters.example_views import STORE_FILE as FILE
from edge_agent.adapters.example_views import view
from edge_agent.trainer.examples import Example, read_examples
from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVERY = 1000  # no exams, unless a test wants them


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ExampleStore]:
    made = ExampleStore(tmp_path / "s")
    yield made
    made.close()


def rows(n: int, *, label: int = 0, start: int = 0) -> list[dict[str, object]]:
    return [{"text": f"marzipan-{start + i}", "label": label} for i in range(n)]


def texts(store: ExampleStore, *roles: str) -> list[str]:
    return [row["text"] for _, row in store.rows(roles or ("train", "replay", "exam"))]  # type: ignore[arg-type]


def test_what_is_kept_comes_back_and_nothing_of_it_is_on_the_disk(store: ExampleStore, tmp_path: Path) -> None:
    store.add([{"text": "marzipan", "label": 41}], source="http", exam_every=EVERY)
    assert texts(store) == ["marzipan"]
    for path in (tmp_path / "s").iterdir():
        assert b"marzipan" not in path.read_bytes()
        assert b'"label"' not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_another_key_a_moved_row_and_a_changed_byte_do_not_open(store: ExampleStore, tmp_path: Path) -> None:
    store.add(rows(2), source="x", exam_every=EVERY)
    store._db.execute("UPDATE examples SET sealed = (SELECT sealed FROM examples WHERE id = 1) WHERE id = 2")
    store._db.commit()
    with pytest.raises(StorageError, match="example 2 does not open"):
        texts(store)
    store.close()
    (tmp_path / "s" / "key").write_text("00" * 32)
    (tmp_path / "s" / "key").chmod(0o600)
    with pytest.raises(StorageError, match="example 1 does not open"):
        texts(ExampleStore(tmp_path / "s"))


@pytest.mark.parametrize(
    ("text", "mode", "words"), [("zz", 0o600, "not a key"), ("00", 0o600, "32 bytes"), ("00" * 32, 0o644, "others")]
)
def test_a_key_that_is_none_or_open_to_others_is_refused(tmp_path: Path, text: str, mode: int, words: str) -> None:
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(mode)
    with pytest.raises(ConfigError, match=words):
        ExampleStore(tmp_path)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match=FILE):
        ExampleStore(tmp_path)


def test_each_so_manieth_labelled_example_is_an_exam(store: ExampleStore) -> None:
    store.add(rows(10), source="x", exam_every=5)
    assert texts(store, "exam") == ["marzipan-4", "marzipan-9"]
    bare = store.add([{"text": "bare"}], source="x", exam_every=1)
    assert texts(store, "train")[-1] == "bare"  # without a label there is nothing to examine
    store.label(bare[0], 1, exam_every=1)
    assert texts(store, "exam")[-1] == "bare"


def test_a_label_may_come_later_and_be_changed(store: ExampleStore) -> None:
    (one,) = store.add([{"text": "x"}], source="x", exam_every=EVERY)
    assert store.counts().n_unlabelled == 1
    assert store.label(one, 1, exam_every=EVERY) == {"text": "x"}
    assert store.label(one, 0, exam_every=EVERY) == {"text": "x", "label": 1}
    assert [row for _, row in store.rows(("train",))] == [{"text": "x", "label": 0}]
    with pytest.raises(ConfigError, match="no example 77"):
        store.label(77, 1, exam_every=EVERY)


def test_retention_by_age_count_and_bytes(store: ExampleStore) -> None:
    for day in range(10):
        store.add(rows(1, start=day), source="x", exam_every=EVERY, unix_s=86_400.0 * day)
    bounds = {"max_age_days": 5.5, "max_examples": 100, "max_bytes": 10**6}
    assert store.retain(**bounds, unix_s=86_400.0 * 9) == 4  # type: ignore[arg-type]
    assert store.retain(**(bounds | {"max_examples": 4}), unix_s=86_400.0 * 9) == 2  # type: ignore[arg-type]
    assert texts(store) == [f"marzipan-{i}" for i in range(6, 10)]
    size = store.counts().n_bytes // 4
    assert store.retain(**(bounds | {"max_bytes": 2 * size + 1}), unix_s=86_400.0 * 9) == 2  # type: ignore[arg-type]
    assert texts(store) == ["marzipan-8", "marzipan-9"]


def test_at_the_end_of_a_stretch_the_reservoir_keeps_a_fair_draw(store: ExampleStore) -> None:
    draw = random.Random(1).random
    store.add(rows(30), source="x", exam_every=EVERY)
    assert store.begin_stretch(capacity=10, draw=draw) == 1
    assert (store.counts().n_train, store.counts().n_replay) == (0, 10)
    store.add(rows(30, start=30), source="x", exam_every=EVERY)
    assert store.begin_stretch(capacity=10, draw=draw) == 2
    kept = [int(text.split("-")[1]) for text in texts(store, "replay")]
    assert len(kept) == 10
    assert 1 <= sum(one < 30 for one in kept) <= 9  # of both stretches


def test_views_are_read_as_data_files_and_skip_what_waits_for_its_label(store: ExampleStore, tmp_path: Path) -> None:
    store.add([*rows(2, label=1), {"text": "bare"}], source="x", exam_every=EVERY)
    path = view(tmp_path / "s", "train")
    found = read_examples(path, n_labels=2, max_examples=100)
    assert found == [Example("marzipan-0", 1), Example("marzipan-1", 1)]
    assert len(read_examples(path, n_labels=None, max_examples=100)) == 3  # self-supervised: no label is needed
    with pytest.raises(ConfigError, match="has no examples"):
        read_examples(view(tmp_path / "s", "exam-4"), n_labels=2, max_examples=100)
    with pytest.raises(ConfigError, match="views"):
        read_examples(view(tmp_path / "s", "..-key"), n_labels=2, max_examples=100)
    with pytest.raises(ConfigError, match="no example store"):
        read_examples(view(tmp_path / "none", "train"), n_labels=2, max_examples=100)


def test_what_is_forgotten_names_the_updates_that_may_still_hold_it(store: ExampleStore, tmp_path: Path) -> None:
    store.add(rows(3, label=0), source="x", exam_every=EVERY, unix_s=100.0)
    store.learnt("reviews", 4)
    store.add(rows(2, label=1, start=3), source="x", exam_every=EVERY, unix_s=200.0)
    store.learnt("reviews", 6)
    found = store.forget(label=1)
    assert (found.n_examples, found.lessons) == (2, (("reviews", 6),))
    found = store.forget(before_unix_s=150.0)
    assert (found.n_examples, found.lessons) == (3, (("reviews", 4), ("reviews", 6)))
    assert store.forget(before_unix_s=1e12).lessons == ()
    sealed = (tmp_path / "s" / FILE).read_bytes()
    assert store.counts().n_bytes == 0
    assert len(sealed) <= 8 * 4096  # the file shrinks, too


def test_forgetting_all_takes_the_key_away_from_every_copy(store: ExampleStore, tmp_path: Path) -> None:
    store.add(rows(5), source="x", exam_every=EVERY)
    copy, key = (tmp_path / "s" / FILE).read_bytes(), (tmp_path / "s" / "key").read_text()
    assert store.forget_all().n_examples == 5
    assert (tmp_path / "s" / "key").read_text() != key
    store.add(rows(1), source="x", exam_every=EVERY)
    assert len(texts(store)) == 1
    (tmp_path / "stolen").mkdir()
    (tmp_path / "stolen" / FILE).write_bytes(copy)
    (tmp_path / "stolen" / "key").write_text((tmp_path / "s" / "key").read_text())
    (tmp_path / "stolen" / "key").chmod(0o600)
    with pytest.raises(StorageError, match="does not open"):
        texts(ExampleStore(tmp_path / "stolen"))


def test_who_had_the_store_open_while_all_was_forgotten_writes_under_the_new_key(
    store: ExampleStore, tmp_path: Path
) -> None:
    other = ExampleStore(tmp_path / "s")
    other.add(rows(2), source="a", exam_every=EVERY)
    store.forget_all()
    other.add(rows(1, start=7), source="a", exam_every=EVERY)
    other.close()
    assert texts(store) == ["marzipan-7"]


def test_an_id_is_never_used_twice(store: ExampleStore) -> None:
    (one,) = store.add(rows(1), source="x", exam_every=EVERY)
    store.forget_all()
    (other,) = store.add(rows(1), source="x", exam_every=EVERY)
    assert other > one


def test_a_huge_example_is_refused_and_nothing_of_its_batch_is_kept(store: ExampleStore) -> None:
    with pytest.raises(ConfigError, match="more than"):
        store.add([*rows(1), {"text": "x" * 2_000_000}], source="x", exam_every=EVERY)
    assert texts(store) == []
