"""Updates opened by many threads: in order, bounded, and never other bytes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from aggregator.fold_pool import WORTH_VALUES, in_order, n_cores, n_workers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_results_come_in_order_whoever_is_first(workers: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * item

    assert list(in_order(slow_first, range(20), workers=workers)) == [i * i for i in range(20)]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_no_more_items_are_open_than_its_bound(workers: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    for n_done, _ in enumerate(in_order(abs, items(), workers=workers)):
        assert len(taken) - n_done <= 2 * workers


@pytest.mark.parametrize("workers", [1, 4])
def test_an_error_comes_in_its_items_place_and_leaves_no_thread(workers: int) -> None:
    before, seen = threading.active_count(), []

    def picky(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        return item

    with pytest.raises(ValueError, match="five"):
        seen.extend(in_order(picky, range(100), workers=workers))
    results = in_order(picky, range(5), workers=workers)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == before
    assert n_cores() >= 1


def test_a_fold_has_the_same_bytes_for_any_number_of_workers(tmp_path: object) -> None:
    from tests.aggregator.stored_rounds import StoredUpdates

    stored = StoredUpdates(tmp_path, n_params=40_003, n_updates=9)  # type: ignore[arg-type]  # a Path
    expected = stored.reference().tobytes()
    for workers in (1, 2, 3, 7):
        assert stored.fold(workers=workers).tobytes() == expected


def test_short_updates_are_opened_by_one_thread_unless_more_are_asked_for() -> None:
    assert n_workers(0, n_values=WORTH_VALUES - 1) == 1
    assert n_workers(0, n_values=WORTH_VALUES) == n_cores()
    assert n_workers(3, n_values=1) == 3
