"""Fixtures of the aggregator's tests: a bench on a temporary folder, its database copied from a made one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aggregator.adapters.sql_store import upgrade_database
from tests.aggregator.workbench import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the newest revision; making one takes 0.1 s, copying it nothing."""
    path = tmp_path_factory.mktemp("template") / "aggregator.db"
    upgrade_database(path)
    return path


@pytest.fixture
def make_bench(tmp_path: Path, empty_database: Path) -> Iterator[Callable[..., Bench]]:
    """Make benches; each is closed at the end."""
    made: list[Bench] = []

    def make(name: str = "bench", **settings: Any) -> Bench:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made.append(Bench(folder, template=empty_database, **settings))
        return made[-1]

    yield make
    for bench in made:
        bench.stop()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A service with one task of two rounds, two devices a round."""
    return make_bench()
