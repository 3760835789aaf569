"""The whole service with its blobs on a real S3 server: the bytes are a folder's, and outages lose nothing."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.sql_facts import SqlFacts
from aggregator.adapters.sql_store import SqlStore
from aggregator.away import BlobsAwayError
from aggregator.blob_place import open_blobs
from aggregator.outage import Outage
from aggregator.retention_settings import RetentionSettings
from host.keys import save_key
from tests.aggregator.front_door import Ran, write_config
from tests.aggregator.test_app import facts_of
from tests.aggregator.test_restart import outcome, play_with_restarts
from tests.aggregator.test_serve import Fleet, Served, fleet, folder, play_until
from tests.aggregator.workbench import TASK, Bench

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aggregator.blob_settings import ObjectPlace
    from deploy.object_server import ObjectServer

__all__ = ["fleet", "folder"]  # fixtures


def with_blobs(config: Path, place: ObjectPlace) -> Path:
    """Put a configuration's blobs into object storage."""
    more = f'blobs = "{place}"\n[service.object_storage]\nendpoint_url = "{place.settings.endpoint_url}"\n'
    config.write_text(config.read_text().replace("[broker]", f"{more}deadline_s = 20\n[broker]", 1))
    return config


def test_rounds_give_the_same_bytes_as_in_a_folder_also_with_restarts(
    make_bench: Callable[..., Bench], object_place: ObjectPlace
) -> None:
    outcomes = []
    for name, where in (("folder", None), ("s3", object_place)):
        bench = make_bench(name, blobs=where)
        play_with_restarts(bench, every=None if where is None else 5)
        outcomes.append(outcome(bench))
        assert (bench.blob_folder).exists() is (where is None)
    assert outcomes[0] == outcomes[1]


def test_retention_and_a_restart_leave_what_rows_name(
    make_bench: Callable[..., Bench], object_place: ObjectPlace
) -> None:
    keep = RetentionSettings(versions=10, rounds=10)
    bench = make_bench(blobs=object_place, rounds=99, cohort=1, min_cohort=1, retention=keep)
    bench.keep_folded_updates = False
    bench.restart()
    bench.play(bench.device("a"), rounds=12)
    named = bench.store.blobs_in_use(keep_folded=False)
    assert set(bench.blobs.sizes()) == named
    orphan = bench.blobs.put(b"an update whose row was never written")
    bench.restart()
    assert orphan not in bench.blobs.sizes()
    assert set(bench.blobs.sizes()) == named


def test_an_update_without_the_storage_waits_unacknowledged_and_goes_on(
    make_bench: Callable[..., Bench],
    own_object_server: Callable[[], tuple[ObjectServer, ObjectPlace]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    server, place = own_object_server()
    bench = make_bench(blobs=place)
    devices = [bench.device("a"), bench.device("b")]
    for device in devices:
        device.join()
        bench.settle()
    outage = Outage(bench.folders.database, bench.blobs)
    devices[0].update()
    server.kill()
    with pytest.raises(BlobsAwayError) as away:
        bench.settle()
    assert bench.store.updates(TASK, 1) == ()
    again = threading.Timer(1.5, server.start)
    again.start()
    assert outage.wait(away.value, threading.Event(), resume=bench.service._resume)
    again.join()
    bench.settle()
    assert [one.device for one in bench.store.updates(TASK, 1)] == ["a"]
    devices[1].update()
    bench.settle()
    assert [one["seconds"] >= 1 for one in facts_of(caplog, "blobs-back")] == [True]
    assert len(facts_of(caplog, "blobs-away")) == 1
    assert bench.version == 1


def test_commands_work_over_object_storage(
    run: Callable[..., Ran], make_bench: Callable[..., Bench], object_place: ObjectPlace
) -> None:
    bench = make_bench(blobs=object_place, rounds=20)
    save_key(bench.folder / "service.key", bench.service_key)
    bench.play(bench.device("a"), bench.device("b"), rounds=2)
    config = with_blobs(write_config(bench.folder), object_place)
    with closing(SqlFacts(bench.folders.database)) as facts:
        facts.own(bench.blobs)
    assert json.loads(run("task", "verify", TASK, "--config", config, "--json").out)["ok"]
    orphan = bench.blobs.put(b"an orphan")
    looked = json.loads(run("serve", "gc", "--dry-run", "--json", "--config", config).out)
    assert looked["before"]["unnamed_blobs"] == 1
    assert run("serve", "gc", "--config", config).code == 0
    assert orphan not in bench.blobs.sizes()
    file = bench.folder / "backup.tar"
    assert run("backup", "--config", config, "--out", file).code == 0
    before = bench.blobs.sizes()
    bench.stop()
    for path in bench.folders.root.glob("aggregator.db*"):
        path.unlink()
    said = run("restore", file, "--config", config)  # it might be the place of another service that lives
    assert (said.code, "belong to a database" in said.line) == (2, True)
    with closing(open_blobs(object_place)) as blobs:
        blobs.disown()
        for name in before:
            blobs.remove(name)
        assert run("restore", file, "--config", config).code == 0
        assert blobs.sizes() == before
    bench.start()


def test_a_database_that_is_not_the_blobs_own_is_refused(
    run: Callable[..., Ran], make_bench: Callable[..., Bench], object_place: ObjectPlace
) -> None:
    bench = make_bench(blobs=object_place)
    bench.play(bench.device("a"), bench.device("b"))
    bench.blobs.own("of another database")
    before = bench.blobs.sizes()
    said = run("serve", "gc", "--config", with_blobs(write_config(bench.folder), object_place))
    assert (said.code, "belong to another database" in said.line) == (2, True)
    assert bench.blobs.sizes() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('blobs = "gs://bucket/x"', "gs:// is not known"),
        ('blobs = "s3://k:secret@bucket"', "no keys in the URL"),
        ('object_storage = {endpoint_url = "http://s3.example"}\nblobs = "s3://b"', "loopback only"),
        ("object_storage = {secret_key = 'secret'}", "secret_key"),
    ],
)
def test_wrong_settings_are_one_line(run: Callable[..., Ran], tmp_path: Path, text: str, said: str) -> None:
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("[broker]", f"{text}\n[broker]", 1))
    ran = run("serve", "gc", "--dry-run", "--config", config)
    assert (ran.code, said in ran.line, "'secret'" in ran.err) == (2, True, False)


@pytest.mark.slow
def test_a_storage_that_is_killed_in_a_round_is_waited_for_and_nothing_is_lost(
    folder: Path, fleet: Fleet, own_object_server: Callable[[], tuple[ObjectServer, ObjectPlace]]
) -> None:
    server, place = own_object_server()
    with_blobs(folder / "aggregator.toml", place)
    with Served(folder, "serve", "--exit-when-done") as served:
        served.wait_for("service-ready")
        devices = [fleet.device("a"), fleet.device("b")]
        play_until(devices[:1], lambda: bool(served.events("update-accepted")))
        server.kill()
        play_until(devices, lambda: bool(served.events("blobs-away")))
        assert served.process.poll() is None
        server.start()
        served.wait_for("blobs-back")
        play_until(devices, lambda: bool(served.events("task-finished")))
        assert served.end() == 0
        assert len(served.events("blobs-away")) == 1
    with closing(SqlStore(folder / "state" / "aggregator.db")) as store, closing(open_blobs(place)) as blobs:
        updates = [one for round_ in store.rounds(TASK) for one in store.updates(TASK, round_.round)]
        assert {one.status for one in updates} <= {"folded", "discarded"}
        assert store.latest_version(TASK).version == store.n_folded(TASK) == 2
        accepted = {one["update_id"] for one in served.events("update-accepted")}
        assert accepted <= {one.update_id.hex() for one in updates}
        assert store.blobs_in_use(keep_folded=True) == set(blobs.sizes())
