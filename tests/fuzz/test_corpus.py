"""Every kept input, and every good one, passes through its decoder within the bounds; no tool is needed for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fuzz import bounds, corpus
from tests.fuzz.targets import Target

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("name", corpus.NAMES)
def test_what_the_search_kept_is_taken_or_refused_within_the_bounds(name: str) -> None:
    target = corpus.target(name)
    inputs = [b"", *target.seeds(), *(path.read_bytes() for path in corpus.kept(name))]
    assert len(inputs) > 1
    for data in inputs:
        bounds.check(target, data)


def test_the_corpus_has_no_folder_without_a_target() -> None:
    assert {path.name for path in corpus.FOLDER.iterdir()} <= set(corpus.NAMES)


def _target(feed: Callable[[bytes], None]) -> Target:
    return Target(name="sample", feed=feed, seeds=list)


def _much_memory(_data: bytes) -> None:
    bytearray(b"x" * (bounds.MAX_GROWTH_BYTES + (512 << 20)))


def _much_time(_data: bytes) -> None:
    sum(range(10_000_000))


def _unpromised(_data: bytes) -> None:
    raise RecursionError


@pytest.mark.serial
def test_the_bounds_find_what_takes_too_much_memory_or_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_SECONDS", 60.0)  # so much memory takes a busy machine more than the usual bound
    with pytest.raises(AssertionError, match="of memory"):
        bounds.check(_target(_much_memory), b"")
    monkeypatch.setattr(bounds, "MAX_SECONDS", 0.05)
    with pytest.raises(AssertionError, match="took 0"):
        bounds.check(_target(_much_time), b"")


def test_an_error_that_nobody_promised_is_a_finding() -> None:
    with pytest.raises(RecursionError):
        bounds.check(_target(_unpromised), b"")
