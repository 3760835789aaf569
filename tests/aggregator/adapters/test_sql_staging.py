"""The rows of ingest workers, on both databases; the locks between processes, on PostgreSQL."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.engines import PostgresDatabase, open_engine
from aggregator.adapters.sql_database import upgrade_database
from aggregator.adapters.sql_dump import LEFT_BEHIND
from aggregator.adapters.sql_staging import SqlStaging
from aggregator.adapters.sql_store import SqlStore
from aggregator.core.opening import Figures
from aggregator.core.staging import Found, Staged, WorkerRecord
from protocol.errors import ConfigError, StorageError
from tests.aggregator.conftest import empty_database, postgres, postgres_template

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from aggregator.adapters.engines import Database
    from tests.postgres import PostgresServer

__all__ = ["empty_database", "postgres", "postgres_template"]  # fixtures

FIGURES = Figures(n_examples=3, loss=0.5, train_s=1.5, payload_bytes=7, metrics={"forgetting": 0.25})
WAIT_S = 20.0


def found(device: str = "a", at: int = 0) -> Found:
    staged = Staged(
        worker="w",
        device=device,
        update_id=bytes([at]) * 16,
        task="t",
        round=1,
        version=0,
        bundle_id="b",
        n_bytes=100,
        sealed_bytes=3,
        blob=f"{at:064x}",
        figures=FIGURES,
    )
    return Found(staged=staged, sealed=bytes([at]) * 3)


@pytest.fixture
def server(postgres: PostgresServer, postgres_template: PostgresDatabase) -> PostgresDatabase:
    return postgres.database(template=postgres_template)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "postgres":
        server: PostgresDatabase = request.getfixturevalue("server")
        return server
    path = tmp_path / "aggregator.db"
    upgrade_database(path)
    return path


@pytest.fixture
def staging(database: Database) -> Iterator[SqlStaging]:
    with closing(SqlStaging(database)) as made:
        yield made


def test_what_is_staged_comes_back_in_order_and_its_bytes_are_in_use(staging: SqlStaging, database: Database) -> None:
    put: list[bytes] = []
    assert staging.stage([found("b", 1), found("a", 2)], put.extend) == 2
    assert staging.stage([found("a", 3)], put.extend) == 1
    assert sorted(put) == [b"\1\1\1", b"\2\2\2", b"\3\3\3"]
    waiting = staging.waiting(limit=2)
    assert [(one.device, one.figures) for one in waiting] == [("a", FIGURES), ("b", FIGURES)]
    with closing(SqlStore(database)) as store:
        assert store.blobs_in_use(keep_folded=False) == {f"{at:064x}" for at in (1, 2, 3)}
    staging.done([one.number for one in waiting])
    assert [one.update_id for one in staging.waiting(limit=9)] == [b"\3" * 16]
    assert staging.n_waiting() == 1


def test_an_update_is_staged_once_and_again_when_it_was_decided_on(staging: SqlStaging) -> None:
    put: list[bytes] = []
    assert [staging.stage([found()], put.extend) for _ in range(2)] == [1, 0]
    assert staging.stage([found("b")], put.extend) == 1  # of another device it is another
    assert len(put) == 2
    staging.done([one.number for one in staging.waiting(limit=9)])
    assert staging.stage([found()], put.extend) == 1


def test_bytes_that_cannot_be_put_leave_no_row(staging: SqlStaging) -> None:
    def fail(_blobs: Sequence[bytes]) -> None:
        raise StorageError("the disk is full")

    with pytest.raises(StorageError, match="full"):
        staging.stage([found()], fail)
    assert staging.n_waiting() == 0


def test_a_refusal_is_for_good(staging: SqlStaging) -> None:
    staging.stage([found()], lambda _: None)
    (one,) = staging.waiting(limit=9)
    staging.refuse(one.number, "late", "x" * 999)
    (one,) = staging.waiting(limit=9)
    assert (one.reason, one.figures, len(one.detail)) == ("late", None, 200)


def test_terms_and_workers_are_what_was_said_last(staging: SqlStaging) -> None:
    staging.set_terms({"t": "1" * 64, "u": "2" * 64})
    staging.set_terms({"t": "3" * 64})
    assert staging.terms() == {"t": "3" * 64}
    for at in (1.0, 2.0):
        staging.beat(WorkerRecord(worker="w", since_unix_s=0.5, seen_unix_s=at, n_staged=int(at)))
    staging.beat(WorkerRecord(worker="gone", since_unix_s=0.5, seen_unix_s=0.5, n_staged=0))
    staging.forget_workers(but=["w"])
    assert staging.workers() == (WorkerRecord(worker="w", since_unix_s=0.5, seen_unix_s=2.0, n_staged=2),)


def test_a_backup_has_nothing_of_it() -> None:
    assert {"staged_updates", "ingest_workers", "ingest_tasks"} <= LEFT_BEHIND


def test_nobody_tidies_up_while_bytes_are_put_nor_puts_any_while_somebody_does(server: PostgresDatabase) -> None:
    order: list[str] = []
    putting, sweeping = threading.Event(), threading.Event()
    with closing(SqlStaging(server)) as first, closing(SqlStaging(server)) as second:

        def put(_blobs: Sequence[bytes]) -> None:
            putting.set()
            sweeping.wait(0.5)  # it cannot begin
            order.append("put")

        def sweep() -> None:
            putting.wait(WAIT_S)
            with second.sweeping():
                sweeping.set()
                order.append(f"sweep of {second_view.n_waiting()}")

        with closing(SqlStaging(server)) as second_view:
            thread = threading.Thread(target=sweep)
            thread.start()
            first.stage([found()], put)
            thread.join(WAIT_S)
        assert order == ["put", "sweep of 1"]


def test_who_comes_second_with_an_update_waits_for_the_first(server: PostgresDatabase) -> None:
    putting, asked = threading.Event(), threading.Event()
    put: list[str] = []
    with closing(SqlStaging(server)) as first, closing(SqlStaging(server)) as second:

        def slow(_blobs: Sequence[bytes]) -> None:
            putting.set()
            asked.wait(WAIT_S)
            put.append("first")

        def other() -> None:
            putting.wait(WAIT_S)
            threading.Timer(0.3, asked.set).start()
            assert second.stage([found()], lambda _: put.append("second")) == 0

        thread = threading.Thread(target=other)
        thread.start()
        assert first.stage([found()], slow) == 1
        thread.join(WAIT_S)
        assert put == ["first", "second"]  # the second had nothing to put
        assert first.n_waiting() == 1


def test_one_worker_has_a_name(server: PostgresDatabase) -> None:
    first, second, third = (open_engine(server, worker=name) for name in ("w", "w", "v"))
    with first.connect(), third.connect(), pytest.raises(ConfigError, match="another ingest worker called w runs"):
        second.connect()
    for one in (first, second, third):
        one.dispose()
