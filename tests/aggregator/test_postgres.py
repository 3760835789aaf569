"""The whole service on PostgreSQL: the same bytes as on SQLite, one writer, and an outage that loses nothing."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.adapters import engines
from aggregator.adapters.engines import PASSWORD_VARIABLE, PostgresDatabase, open_engine, postgres_of
from aggregator.adapters.sql_database import upgrade_database
from aggregator.adapters.sql_reports import SqlReports
from aggregator.adapters.sql_store import SqlStore
from aggregator.away import DatabaseAwayError
from aggregator.config import load_config
from aggregator.outage import Outage
from aggregator.retention_settings import RetentionSettings
from aggregator.setup import Workshop
from host.keys import save_key
from protocol.errors import ConfigError, StorageError
from protocol.messages import Work
from tests.aggregator.front_door import Ran, write_config
from tests.aggregator.test_restart import outcome, play_with_restarts
from tests.aggregator.test_serve import WAIT_S, Fleet, Served, fleet, folder, play_until
from tests.aggregator.workbench import TASK, Bench

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.postgres import PostgresServer

__all__ = ["fleet", "folder"]  # fixtures


@pytest.fixture
def server(postgres: PostgresServer, postgres_template: PostgresDatabase) -> PostgresDatabase:
    return postgres.database(template=postgres_template)


def test_rounds_give_the_same_bytes_as_on_sqlite_also_with_restarts(
    make_bench: Callable[..., Bench], server: PostgresDatabase
) -> None:
    outcomes = []
    for name, where in (("sqlite", None), ("postgres", server)):
        bench = make_bench(name, server=where)
        play_with_restarts(bench, every=None if where is None else 3)
        outcomes.append(outcome(bench))
    assert outcomes[0] == outcomes[1]


def test_retention_and_reports_are_the_same_on_both(make_bench: Callable[..., Bench], server: PostgresDatabase) -> None:
    totals: list[Any] = []
    for name, where in (("sqlite", None), ("postgres", server)):
        keep = RetentionSettings(versions=10, rounds=10)
        bench = make_bench(name, server=where, rounds=99, cohort=1, min_cohort=1, retention=keep)
        bench.keep_folded_updates = False
        bench.restart()
        bench.play(bench.device("a"), rounds=12)
        assert len(bench.store.versions(TASK)) == 11
        with closing(SqlReports(bench.folders.database)) as reports:
            seen = reports.activity(["a"])["a"].last_seen_unix_s
            totals.append((reports.totals(), reports.totals_of(TASK), reports.participants(), seen))
    assert totals[0] == totals[1]


@pytest.mark.parametrize("way", ["to-server", "from-server"])
def test_a_backup_moves_a_service_between_the_two(
    run: Callable[..., Ran], make_bench: Callable[..., Bench], server: PostgresDatabase, way: str
) -> None:
    source = make_bench("source", server=server if way == "from-server" else None, rounds=9)
    devices = [source.device("a"), source.device("b")]
    source.play(*devices, rounds=2)
    configs = {}
    for folder_ in (source.folder, source.folder.parent / "target"):
        folder_.mkdir(exist_ok=True)
        save_key(folder_ / "service.key", source.service_key)
        configs[folder_.name] = config = write_config(folder_)
        if (folder_.name == "source") == (way == "from-server"):
            url = server.url.render_as_string()
            config.write_text(config.read_text().replace("[broker]", f'database = "{url}"\n[broker]'))
    file = source.folder / "backup.tar"
    assert run("backup", "--config", configs["source"], "--out", file).code == 0
    said = run("restore", file, "--config", configs["target"])
    assert said.code == 0, said.err
    target = make_bench("target", server=server if way == "to-server" else None, rounds=9)
    assert [target.adapter_bytes(version) for version in range(3)] == [source.adapter_bytes(v) for v in range(3)]
    target.play(target.device("a"), target.device("b"))
    assert target.store.n_folded(TASK) == 3


def test_a_password_is_in_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    database = postgres_of("postgresql://u@127.0.0.1:1/d", password_file=str(tmp_path / "password"))
    assert database.password == "hunter2"
    monkeypatch.setenv(PASSWORD_VARIABLE, "hunter3")
    assert postgres_of("postgresql://u@h/d", password_file=None).password == "hunter3"
    engine = open_engine(database)
    with pytest.raises(DatabaseAwayError) as away:
        SqlStore(database)
    for text in (repr(database), str(database), repr(engine), str(away.value)):
        assert "hunter" not in text


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:secret@h/d", "no password in the URL"),
        ("postgresql://u@h/d?password=secret", "no password in the URL"),
        ("mysql://h/d", "mysql:// is not known"),
        ("not a url", "not a URL"),
        ("postgresql://u@h", "names no database"),
    ],
)
def test_a_wrong_url_is_one_line_without_its_secret(
    run: Callable[..., Ran], tmp_path: Path, url: str, said: str
) -> None:
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("[broker]", f'database = "{url}"\n[broker]'))
    ran = run("task", "list", "--config", config)
    assert (ran.code, said in ran.line, "secret" in ran.err) == (2, True, False)


def test_only_one_service_writes(server: PostgresDatabase) -> None:
    engine, other = (open_engine(server, is_service=True) for _ in range(2))
    with engine.connect():
        with pytest.raises(ConfigError, match="another edgefold serve runs on this database"):
            other.connect()
        with closing(SqlStore(server)) as reader:  # commands beside it are no services
            assert reader.tasks() == ()
    engine.dispose()
    other.connect().close()
    other.dispose()


def test_a_lost_connection_takes_the_lock_with_it_and_no_write_goes_without(
    postgres: PostgresServer, server: PostgresDatabase
) -> None:
    engine, other = (open_engine(server, is_service=True) for _ in range(2))
    with closing(SqlStore(server, engine=engine)) as store:
        store.refuse("malformed")
        postgres.disconnect(server)
        time.sleep(0.2)
        with other.connect():
            for _ in range(2):  # the connection is found dead; then the new one gets no lock
                with pytest.raises((DatabaseAwayError, ConfigError)):
                    store.refuse("malformed")
            assert store._engine is engine
        other.dispose()
        store.refuse("malformed")
        assert store.refusals("") == {"malformed": 2}
    engine.dispose()


def test_a_database_that_is_not_ours_is_refused(postgres: PostgresServer) -> None:
    empty = postgres.database()
    with pytest.raises(StorageError, match="no database of the newest revision"):
        SqlStore(empty)
    upgrade_database(empty)
    upgrade_database(empty)
    SqlStore(empty).close()


def test_a_locked_sqlite_database_is_waited_for_and_the_message_is_taken_then(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_BUSY_TIMEOUT_MS", 50)
    bench = make_bench()
    device = bench.device("a")
    outage = Outage(bench.folders.database)
    with closing(sqlite3.connect(bench.folders.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        device.join()
        with pytest.raises(DatabaseAwayError, match="locked") as away:
            bench.settle()
        other.execute("ROLLBACK")
    assert outage.wait(away.value, threading.Event(), resume=bench.service._resume)
    bench.settle()
    assert [work.round for work in device.all(Work)] == [1]
    assert bench.store.joined(TASK, 1) == ("a",)


def test_a_database_that_is_not_the_blobs_own_does_not_sweep_them(
    run: Callable[..., Ran], make_bench: Callable[..., Bench], server: PostgresDatabase
) -> None:
    bench = make_bench()
    bench.keep_folded_updates = False
    bench.play(bench.device("a"), bench.device("b"))
    config = write_config(bench.folder, keep=False)
    assert run("serve", "gc", "--config", config).code == 0  # the blobs are this database's
    before = bench.blobs.sizes()
    text, url = config.read_text(), server.url.render_as_string()
    config.write_text(text.replace("[broker]", f'database = "{url}"\n[broker]'))  # which is empty
    said = run("serve", "gc", "--config", config)
    assert (said.code, "belong to another database" in said.line) == (2, True)
    with pytest.raises(ConfigError, match="belong to another database"):
        Workshop(load_config(config))
    assert bench.blobs.sizes() == before
    config.write_text(text)
    assert run("serve", "gc", "--config", config).code == 0
    assert bench.blobs.sizes() == before


def test_waiting_ends_when_the_service_is_told_to_stop(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert not Outage(tmp_path / "none.db").wait(DatabaseAwayError("away"), stop, resume=lambda: None)


@pytest.mark.slow
def test_a_server_that_is_killed_in_a_round_is_waited_for_and_nothing_is_lost(
    folder: Path, fleet: Fleet, postgres: PostgresServer, server: PostgresDatabase
) -> None:
    path = folder / "aggregator.toml"
    url = server.url.render_as_string()
    path.write_text(path.read_text().replace("[broker]", f'database = "{url}"\n[broker]', 1))
    with Served(folder, "serve", "--exit-when-done") as served:
        served.wait_for("service-ready")
        other = shutil.copytree(folder, folder.parent / "other", ignore=shutil.ignore_patterns("state"))
        with Served(other, "serve") as second:
            assert second.end() == 2
        assert "another edgefold serve runs" in second.log.read_text().splitlines()[-1]
        devices = [fleet.device("a"), fleet.device("b")]
        play_until(devices, lambda: bool(served.events("update-accepted")))
        postgres.kill()
        try:
            deadline = time.monotonic() + WAIT_S
            while not served.events("database-away") and time.monotonic() < deadline:
                for device in devices:
                    device.join(1)  # something has to be written
                time.sleep(0.1)
            assert served.events("database-away")
            assert served.process.poll() is None
        finally:
            postgres.start()
        served.wait_for("database-back")
        play_until(devices, lambda: bool(served.events("task-finished")))
        assert served.end() == 0
    with closing(SqlStore(server)) as store:
        updates = [one for round_ in store.rounds(TASK) for one in store.updates(TASK, round_.round)]
        assert {one.status for one in updates} <= {"folded", "discarded"}
        assert store.latest_version(TASK).version == store.n_folded(TASK) == 2
        accepted = {one["update_id"] for one in served.events("update-accepted")}
        assert accepted <= {one.update_id.hex() for one in updates}
