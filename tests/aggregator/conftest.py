"""Fixtures of the aggregator's tests: a bench on a temporary folder, its database copied from a made one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

import edgefold
from aggregator.adapters.sql_database import upgrade_database
from aggregator.blob_settings import ObjectPlace, ObjectStorageSettings, object_place_of
from deploy.local import free_ports
from deploy.object_server import BUCKET, KEYS, ObjectServer
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


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """An S3 server; starting one takes half a second."""
    server = ObjectServer(tmp_path_factory.mktemp("s3"), port=free_ports(1)[0])
    server.start()
    yield server
    server.close()


@pytest.fixture
def object_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of every S3 server of ours, as an operator sets them."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def object_place(object_server: ObjectServer, object_keys: None, tmp_path: Path) -> ObjectPlace:  # noqa: ARG001 - it sets them
    """A place of this test's own in the bucket."""
    settings = ObjectStorageSettings(endpoint_url=object_server.endpoint_url, deadline_s=20.0)
    return object_place_of(f"s3://{BUCKET}/{tmp_path.name}/blobs", settings)


@pytest.fixture
def own_object_server(
    tmp_path: Path,
    object_keys: None,  # noqa: ARG001 - it sets them
) -> Iterator[Callable[[], tuple[ObjectServer, ObjectPlace]]]:
    """Start an S3 server that a test may kill."""
    made: list[ObjectServer] = []

    def make() -> tuple[ObjectServer, ObjectPlace]:
        server = ObjectServer(tmp_path / "s3", port=free_ports(1)[0])
        server.start()
        made.append(server)
        settings = ObjectStorageSettings(endpoint_url=server.endpoint_url, deadline_s=20.0)
        return server, object_place_of(f"s3://{BUCKET}/blobs", settings)

    yield make
    for server in made:
        server.close()


@pytest.fixture
def no_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process's logs and signals alone."""
    monkeypatch.setattr("host.logs.configure", lambda **_: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)


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
