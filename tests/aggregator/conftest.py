"""Fixtures of the aggregator's tests: a bench on a temporary folder, its database copied from a made one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

import edgefold
from aggregator.adapters.sql_database import upgrade_database
from tests.aggregator.front_door import Ran
from tests.aggregator.office import Applicant, Office
from tests.aggregator.workbench import Bench
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aggregator.adapters.engines import PostgresDatabase


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the newest revision; making one takes 0.1 s, copying it nothing."""
    path = tmp_path_factory.mktemp("template") / "aggregator.db"
    upgrade_database(path)
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; starting one takes 2 s."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> PostgresDatabase:
    """A database of the newest revision on the server, to be copied."""
    database = postgres.database()
    upgrade_database(database)
    return database


@pytest.fixture
def make_bench(tmp_path: Path, empty_database: Path) -> Iterator[Callable[..., Bench]]:
    """Make benches; each is closed at the end."""
    made: list[Bench] = []

    def make(name: str = "bench", **settings: Any) -> Bench:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made.append(Bench(folder, **{"template": empty_database, **settings}))
        return made[-1]

    yield make
    for bench in made:
        bench.stop()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A service with one task of two rounds, two devices a round."""
    return make_bench()


@pytest.fixture
def make_office(tmp_path: Path, empty_database: Path) -> Iterator[Callable[..., Office]]:
    """Make a service's side of enrolment; its database is closed at the end."""
    made: list[Office] = []

    def make(**terms: Any) -> Office:
        made.append(Office(tmp_path, empty_database, **terms))
        return made[-1]

    yield make
    for office in made:
        office.close()


@pytest.fixture
def office(make_office: Callable[..., Office]) -> Office:
    """One whose tokens are enough, with a token given out."""
    return make_office()


@pytest.fixture
def pi(tmp_path: Path) -> Applicant:
    """A device that claims."""
    return Applicant(tmp_path, "pi")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the front door in this process."""

    def run_(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["edgefold", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            edgefold.main()
        said = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, said.out, said.err)

    return run_
