"""Opens updates on all cores for a fold that takes them one by one, in order.

Laws: results come in the order of the items, whoever finished first, so a fold's bytes do not depend on the number of
workers; at most ``2 * workers`` items are open at once, which bounds memory by so many decoded updates; the first error
is raised where its item would have come, and what was begun is waited for. Threads take turns at Python's lock, which
numpy and decryption release on long inputs only: below ``WORTH_VALUES`` several are slower than one
(``make bench-fold``).
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

__all__ = ["MAX_WORKERS", "WORTH_VALUES", "in_order", "n_cores", "n_workers"]

MAX_WORKERS: Final = 256
WORTH_VALUES: Final = 1_000_000  # of an update

T = TypeVar("T")
R = TypeVar("R")


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def n_workers(asked: int, *, n_values: int) -> int:
    """Return the number of threads for updates of ``n_values``: what was ``asked``, or for 0 what pays."""
    if asked:
        return asked
    return n_cores() if n_values >= WORTH_VALUES else 1


def in_order(function: Callable[[T], R], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in order, computed by ``workers`` threads; by this one if that is 1."""
    if workers == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="fold") as pool:
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) == 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for one in pending:
                one.cancel()
