"""The database: its schema is what the code thinks, its upgrade is all or nothing, its rows refuse what must not be."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from aggregator.adapters import migrations
from aggregator.adapters.engines import open_engine
from aggregator.adapters.sql_access import SqlAccess
from aggregator.adapters.sql_database import upgrade_database
from aggregator.adapters.sql_devices import SqlDevices
from aggregator.adapters.sql_lifecycle import SqlLifecycle
from aggregator.adapters.sql_store import SqlStore
from aggregator.adapters.sql_sums import SqlSums
from aggregator.adapters.tables import METADATA
from aggregator.core.access import AccessRecord
from aggregator.core.enrolment import DeviceRecord, TokenRecord
from aggregator.core.records import (
    Change,
    CreatedTask,
    RoundRecord,
    Standing,
    TaskRecord,
    Traffic,
    UpdateRecord,
    VersionRecord,
)
from protocol.errors import ConfigError, LocalProtocolError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aggregator.adapters.engines import Database

ROUND = RoundRecord(task="t", round=1, version=0, state="open", opened_unix_s=1.0, deadline_unix_s=2.0)
VERSION = VersionRecord(task="t", version=0, round=None, state={"adapter": "0" * 64}, n_updates=0, created_unix_s=1.0)
UPDATE = UpdateRecord(
    update_id=b"u" * 16,
    task="t",
    round=1,
    device="a",
    blob="1" * 64,
    n_bytes=100,
    payload_bytes=50,
    n_examples=10,
    loss=0.5,
    train_s=1.0,
)
TRAFFIC = Traffic(up_bytes=3, down_bytes=4)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, empty_database: Path) -> Database:
    """A database of the newest revision: every law below holds on both."""
    if request.param == "postgresql":
        server, template = request.getfixturevalue("postgres"), request.getfixturevalue("postgres_template")
        made: Database = server.database(template=template)
        return made
    path = tmp_path / "aggregator.db"
    path.write_bytes(empty_database.read_bytes())
    return path


@pytest.fixture
def store(database: Database) -> Iterator[SqlStore]:
    made = SqlStore(database)
    made.add_task(TaskRecord(task="t", bundle_id="b" * 64, strategy="fedavg", state="open"), VERSION, ROUND)
    made.join("t", 1, "a", traffic=TRAFFIC, unix_s=1.0)
    yield made
    made.close()


def test_the_revisions_make_the_tables_that_the_code_uses(database: Database) -> None:
    engine = open_engine(database)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def test_an_interrupted_upgrade_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "aggregator.db"
    real = migrations.upgrade

    def interrupted(connection: Any) -> None:
        real(connection)
        raise KeyboardInterrupt

    monkeypatch.setattr(migrations, "upgrade", interrupted)
    with pytest.raises(KeyboardInterrupt):
        upgrade_database(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    monkeypatch.setattr(migrations, "upgrade", real)
    upgrade_database(path)
    assert migrations.is_current(path)


def test_a_database_of_a_newer_edgefold_is_refused(tmp_path: Path, empty_database: Path) -> None:
    path = tmp_path / "aggregator.db"
    path.write_bytes(empty_database.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(StorageError, match="newer edgefold"):
        SqlStore(path)


def test_every_commit_is_forced_to_disk(store: SqlStore) -> None:
    with store._reading() as connection:
        if connection.dialect.name == "postgresql":
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
            return
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1


def test_the_database_refuses_a_second_update_of_a_device_in_a_round(store: SqlStore) -> None:
    store.accept(UPDATE, traffic=TRAFFIC, unix_s=1.0)
    with pytest.raises(StorageError, match=r"(?i)unique"):
        store.accept(dataclasses.replace(UPDATE, update_id=b"v" * 16), traffic=TRAFFIC, unix_s=1.0)
    assert len(store.updates("t", 1)) == 1


def test_the_database_refuses_an_update_of_a_stranger_to_the_round(store: SqlStore) -> None:
    with pytest.raises(StorageError, match=r"(?i)foreign key"):
        store.accept(dataclasses.replace(UPDATE, device="b"), traffic=TRAFFIC, unix_s=1.0)


def test_an_update_after_closing_is_our_bug_and_changes_nothing(store: SqlStore) -> None:
    store.start_closing("t", 1, "cohort-complete")
    with pytest.raises(LocalProtocolError):
        store.accept(UPDATE, traffic=TRAFFIC, unix_s=1.0)
    assert store.updates("t", 1) == ()


def test_a_fold_that_fails_halfway_changes_nothing(store: SqlStore) -> None:
    store.accept(UPDATE, traffic=TRAFFIC, unix_s=1.0)
    store.start_closing("t", 1, "cohort-complete")
    version = dataclasses.replace(VERSION, version=1, round=1, n_updates=1)
    with pytest.raises(StorageError):
        store.fold("t", 1, version=version, next_round=ROUND)  # round 1 again
    assert store.latest_round("t").state == "closing"
    assert store.latest_version("t").version == 0
    assert store.updates("t", 1)[0].status == "accepted"


def test_a_round_is_folded_only_once(store: SqlStore) -> None:
    store.start_closing("t", 1, "deadline-with-enough")
    version = dataclasses.replace(VERSION, version=1, round=1)
    store.fold("t", 1, version=version, next_round=None)
    with pytest.raises(LocalProtocolError):
        store.fold("t", 1, version=dataclasses.replace(version, version=2), next_round=None)


def test_records_come_back_as_they_went_in(store: SqlStore) -> None:
    store.accept(UPDATE, traffic=TRAFFIC, unix_s=1.0)
    assert store.taken(UPDATE.update_id) == store.taken_from("t", 1, "a") == UPDATE
    assert store.latest_round("t") == ROUND
    assert store.latest_version("t") == VERSION


def test_a_summary_weighs_losses_by_examples(store: SqlStore) -> None:
    store.join("t", 1, "b", traffic=TRAFFIC, unix_s=1.0)
    store.accept(UPDATE, traffic=TRAFFIC, unix_s=1.0)
    other = dataclasses.replace(UPDATE, update_id=b"v" * 16, device="b", n_examples=30, loss=0.1, train_s=7.0)
    store.accept(other, traffic=TRAFFIC, unix_s=1.0)
    summary = store.summary("t", 1)
    assert summary.loss == pytest.approx(0.2)
    assert (summary.n_updates, summary.n_participants, summary.train_s_max) == (2, 2, 7.0)
    assert (summary.bytes_up, summary.bytes_down) == (12, 16)


def test_refusals_of_strangers_do_not_make_the_tables_grow(store: SqlStore) -> None:
    for device in ("x", "y", "z"):
        store.refuse("unknown-device", device=device)
    assert store.refusals("") == {"unknown-device": 3}


def test_a_reader_works_beside_a_writer(store: SqlStore, database: Database) -> None:
    reader = SqlStore(database, is_read_only=True)
    with store._writing() as connection:
        connection.exec_driver_sql("UPDATE tasks SET state = 'finished'")
        assert [one.state for one in reader.tasks()] == ["open"]
    assert [one.state for one in reader.tasks()] == ["finished"]
    reader.close()


def test_a_reader_cannot_write(database: Database) -> None:
    with closing(SqlStore(database, is_read_only=True)) as reader, pytest.raises(StorageError, match=r"(?i)read.?only"):
        reader.refuse("malformed")


@pytest.mark.usefixtures("store")
def test_devices_tokens_commands_and_sums_are_kept_on_both(database: Database) -> None:
    with closing(SqlDevices(database)) as devices, closing(SqlLifecycle(database)) as lifecycle:
        device = DeviceRecord(device="a", verify_key=bytes(32), status="pending", since_unix_s=1.0)
        token = TokenRecord(digest=bytes(32), expires_unix_s=9.0, device="a", verify_key=bytes(32))
        devices.add_tokens([dataclasses.replace(token, device=None, verify_key=None)])
        devices.use_token(token, device, None)
        devices.use_token(token, device, None)  # again: nothing changes
        devices.approve("a", 2.0)
        devices.revoke("b", 3.0)
        devices.revoke("a", 3.0)
        assert [(one.device, one.status) for one in devices.devices()] == [("a", "revoked"), ("b", "revoked")]
        assert sorted(devices.to_shut_out()) == ["a", "b"]
        created = CreatedTask(task="x", settings="{}", digest="0" * 64, created_unix_s=1.0)
        number = lifecycle.create(created)
        with pytest.raises(ConfigError, match="created before"):
            lifecycle.create(created)
        assert lifecycle.command(number).verb == "create"
        standing = Standing(task="t", version=0, status="promoted", why="good", decided_unix_s=1.0)
        for status in ("promoted", "rejected"):
            lifecycle.apply(Change(task="t", unix_s=1.0, standings=(dataclasses.replace(standing, status=status),)))
        assert lifecycle.standings("t")[0].status == "rejected"
    with closing(SqlSums(database)) as sums:
        for state in (b"1", b"2"):
            facts = {"step": "adverts", "update_id": state * 16, "state": state, "traffic": TRAFFIC}
            sums.accept("t", 1, {b"1": "a", b"2": "b"}[state], **facts)  # type: ignore[arg-type]
        assert (sums.state("t", 1), sums.taken("t", 1, "a", "adverts")) == (b"2", b"1" * 16)
        sums.forget("t", 1, keep_state=False)
        assert sums.state("t", 1) is None
    with closing(SqlAccess(database)) as access:
        one = AccessRecord(name="n", digest=bytes(32), role="viewer", created_unix_s=1.0, expires_unix_s=5.0)
        access.add(one)
        with pytest.raises(ConfigError, match="there is a token"):
            access.add(one)
        access.add(dataclasses.replace(one, digest=bytes([1] * 32), name="m", created_unix_s=6.0, expires_unix_s=9.0))
        assert [token_.name for token_ in access.tokens()] == ["m"]
