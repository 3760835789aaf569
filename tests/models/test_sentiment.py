"""The sample data, on a small archive of the same form: no network."""

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from models import sentiment
from models.sentiment import DOMAINS, fetch_sentiment, write_splits
from protocol.errors import ConfigError, TrustError


def make_archive(folder: Path, members: dict[str, bytes]) -> str:
    """Write a source distribution with ``members`` in the inner archive; return its SHA-256."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    path = folder / sentiment.SDIST.name
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr(sentiment.INNER, inner.getvalue())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(n: int) -> bytes:
    """Return n clear sentences of alternating sign, one unclear one and one that occurs twice."""
    clear = [f"{i}\t{1.5 if i % 2 else -2.0}\tsentence number {i}" for i in range(n)]
    return "\r\n".join([*clear, "x\t0.49\tso-so", "y\t2.0\tsentence number 0"]).encode()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    digest = make_archive(tmp_path, {member: rows(20) for member in DOMAINS.values()})
    monkeypatch.setattr(sentiment, "SDIST", replace(sentiment.SDIST, sha256=digest))
    return fetch_sentiment(tmp_path)


def read(path: Path) -> list[tuple[str, int]]:
    return [(e["text"], e["label"]) for e in map(json.loads, path.read_text().splitlines())]


def test_the_test_set_is_the_same_for_every_training_size_and_never_trained_on(archive: Path, tmp_path: Path) -> None:
    small = write_splits(archive, tmp_path / "small", n_train=4, n_test=6)
    large = write_splits(archive, tmp_path / "large", n_train=14, n_test=6)
    for domain in DOMAINS:
        assert read(small.test[domain]) == read(large.test[domain])
        assert read(large.train[domain])[:4] == read(small.train[domain])
        assert not set(read(large.train[domain])) & set(read(large.test[domain]))


def test_unclear_and_repeated_sentences_are_dropped_and_the_label_is_the_sign(archive: Path, tmp_path: Path) -> None:
    splits = write_splits(archive, tmp_path / "all", n_train=14, n_test=6)
    every = read(splits.train["tweets"]) + read(splits.test["tweets"])
    assert sorted(every) == sorted((f"sentence number {i}", i % 2) for i in range(20))


def test_another_seed_gives_another_order(archive: Path, tmp_path: Path) -> None:
    one = write_splits(archive, tmp_path / "one", n_train=10, n_test=5, seed=1)
    two = write_splits(archive, tmp_path / "two", n_train=10, n_test=5, seed=2)
    assert read(one.train["movies"]) != read(two.train["movies"])


def test_asking_for_more_than_there_is_says_how_many_there_are(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="20 examples, 21"):
        write_splits(archive, tmp_path / "x", n_train=15, n_test=6)


def test_an_archive_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    make_archive(tmp_path, {member: rows(20) for member in DOMAINS.values()})
    with pytest.raises(TrustError, match="SHA-256"):
        fetch_sentiment(tmp_path)


def test_a_text_beyond_its_bound_is_refused(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentiment, "MAX_TEXT_BYTES", 100)
    with pytest.raises(TrustError, match="longer than 100"):
        write_splits(archive, tmp_path / "x", n_train=4, n_test=4)


def test_members_that_point_elsewhere_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {member: rows(20) for member in DOMAINS.values()} | {"../../escaped.txt": b"x", "/tmp/escaped": b"x"}  # noqa: S108
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    pinned = replace(sentiment.SDIST, sha256=make_archive(folder, members))
    monkeypatch.setattr(sentiment, "SDIST", pinned)
    write_splits(fetch_sentiment(folder), folder / "splits", n_train=4, n_test=4)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        sentiment.SDIST.name,
        *(f"{domain}.{part}.jsonl" for domain in DOMAINS for part in ("train", "test")),
    }
