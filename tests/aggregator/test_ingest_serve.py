"""Ingest workers as processes: a real broker, PostgreSQL, kill -9; and what an operator hears who got it wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from aggregator.adapters.broker import is_available
from aggregator.adapters.engines import PostgresDatabase
from aggregator.adapters.sql_database import upgrade_database
from deploy.database_server import USER
from protocol.errors import StorageError
from protocol.signing import SigningKey
from tests.aggregator.front_door import Ran, write_config
from tests.aggregator.ingest_bench import Ingest
from tests.aggregator.secure_fleet import FLEET, WAIT_S, SecureFleet, hears
from tests.aggregator.test_serve import ROOT, Fleet, Served, fleet, folder, play_until
from tests.aggregator.workbench import TASK, Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.postgres import PostgresServer

__all__ = ["fleet", "folder"]  # fixtures

UPDATE = f"ef/1/{FLEET}/dev/a/up/update"


@pytest.fixture
def server(postgres: PostgresServer, postgres_template: PostgresDatabase) -> PostgresDatabase:
    return postgres.database(template=postgres_template)


def with_tables(config: Path, database: PostgresDatabase | None, ingest: str) -> None:
    text = config.read_text()
    if database is not None:
        text = text.replace("[broker]", f'database = "{database.url.render_as_string()}"\n[broker]', 1)
    config.write_text(text.replace("[devices]", f"[ingest]\n{ingest}\n[devices]", 1))


@pytest.mark.slow
@pytest.mark.skipif(not is_available("mosquitto"), reason="mosquitto is not installed")
def test_two_rounds_by_workers_that_are_killed_give_a_history_that_verifies(
    folder: Path, fleet: Fleet, server: PostgresDatabase
) -> None:
    with_tables(folder / "aggregator.toml", server, 'workers = 1\nexternal = ["big"]')
    with Served(folder, "serve", "--exit-when-done") as served:
        served.wait_for("service-ready")
        with Served(folder, "serve", "ingest", "--name", "big") as big:
            big.wait_for("ingest-up")
            devices = [fleet.device("a"), fleet.device("b")]
            play_until(devices, lambda: bool(served.events("update-accepted")))
            big.end(signal.SIGKILL)
        os.kill(served.events("ingest-worker-started")[-1]["pid"], signal.SIGKILL)
        with Served(folder, "serve", "ingest", "--name", "big") as big:
            play_until(devices, lambda: bool(served.events("task-finished")))
            assert big.end(signal.SIGTERM) == 0
            assert big.events("ingest-stopped")
            shown = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "edgefold",
                    "serve",
                    "workers",
                    "--config",
                    str(folder / "aggregator.toml"),
                    "--json",
                ],
                capture_output=True,
                text=True,
                check=True,
            )
            facts = json.loads(shown.stdout)
            assert [one["worker"] for one in facts["workers"]] == ["local-1", "big"]
            assert sum(one["staged"] for one in facts["workers"]) > 0
        assert served.end() == 0
        assert len(served.events("ingest-worker-died")) >= 1
    with Served(folder, "task", "verify", TASK) as verified:
        assert verified.end() == 0, verified.log.read_text()


def test_a_worker_does_with_a_role_of_its_own_that_can_change_no_version(
    make_bench: Callable[..., Bench], postgres: PostgresServer
) -> None:
    documented = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "scale.md").read_text("utf-8"), re.DOTALL)[0]
    server = postgres.database()
    bench = make_bench("own", server=server, has_workers=True)
    with psycopg.connect(host=str(postgres.folder), user=USER, dbname=server.url.database) as connection:
        connection.execute(documented)
    role = PostgresDatabase(url=server.url.set(username="edgefold_ingest"))
    ingest = Ingest(bench, database=role)
    a, b = bench.device("a"), bench.device("b")
    for device in (a, b):
        device.join()
        bench.settle()
        device.update()
        device.publish(device.make_update(seed=1), "update", key=SigningKey(bytes(range(32))))
        ingest.settle()
    assert (a.receipts(), bench.version) == ([("accepted", None)], 1)
    assert bench.store.refusals("") == {"bad-signature": 2}
    assert [one.worker for one in ingest.staging.workers()] == ["local-1"]
    with pytest.raises(StorageError, match="permission denied"):
        ingest.store.open_round(bench.store.latest_round(TASK))
    with pytest.raises(StorageError, match="permission denied"):
        ingest.staging.done([1])
    ingest.stop()


@pytest.mark.slow
def test_a_worker_ends_with_its_service(folder: Path, fleet: Fleet, server: PostgresDatabase) -> None:
    assert fleet.port
    with_tables(folder / "aggregator.toml", server, "workers = 1")
    with Served(folder, "serve") as served:
        pid = served.wait_for("ingest-worker-started")["pid"]
        served.wait_for("service-ready")
        served.end(signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    while _is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - not a file of ours
        return stat.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.usefixtures("no_logs")
def test_what_is_set_up_wrong_is_one_line(
    run: Callable[..., Ran], tmp_path: Path, postgres: PostgresServer, server: PostgresDatabase
) -> None:
    config = write_config(tmp_path)
    plain = config.read_text()
    with_tables(config, None, "workers = 1")
    said = run("serve", "ingest", "--name", "local-1", "--config", config)
    assert (said.code, "workers need a database server" in said.line) == (2, True)
    config.write_text(plain)
    with_tables(config, server, 'external = ["big"]')
    said = run("serve", "ingest", "--name", "small", "--config", config)
    assert (said.code, "no worker is called small; [ingest] has: big" in said.line) == (2, True)
    said = run("serve", "ingest", "--name", "big", "--config", config)
    assert (said.code, "keeps its blobs elsewhere" in said.line) == (2, True)
    empty = postgres.database()
    config.write_text(plain)
    with_tables(config, empty, 'external = ["big"]')
    said = run("serve", "ingest", "--name", "big", "--config", config)
    assert "edgefold serve makes it" in said.line
    upgrade_database(empty)
    said = run("serve", "ingest", "--name", "big", "--broker", "mqtts://127.0.0.1:1", "--config", config)
    assert said.code == 2


def test_help_says_what_it_is_for() -> None:
    command = [sys.executable, "-m", "edgefold", "serve", "ingest", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "shared subscription" in done.stdout
    assert "--name" in done.stdout


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[SecureFleet]:
    made = SecureFleet(tmp_path, workers=("_ingest-big",))
    yield made
    made.close()


@pytest.mark.serial
@pytest.mark.skipif(not is_available("mosquitto"), reason="mosquitto is not installed")
def test_a_workers_certificate_reads_updates_and_nothing_else(secure: SecureFleet) -> None:
    def worker(name: str, filters: list[str]) -> Any:
        secure.authority.renew_own("127.0.0.1", now=secure.now(), workers=[name])
        link = secure.link(f"_ingest-{name}", filters, files=secure.authority.files(f"ingest-{name}"))
        link.receive(WAIT_S)
        return link

    shared = f"$share/secret/ef/1/{FLEET}/dev/+/up/update"
    big = worker("big", [shared, f"ef/1/{FLEET}/dev/+/up/join", f"ef/1/{FLEET}/dev/+/down/+", "#"])
    small = worker("small", [f"ef/1/{FLEET}/dev/+/up/update"])  # has a certificate, but is no worker any more
    mallory = secure.link("mallory", [f"$share/guessed/ef/1/{FLEET}/dev/+/up/update"])
    mallory.receive(WAIT_S)
    device, service = secure.device("a"), secure.service()
    for topic in (UPDATE, f"ef/1/{FLEET}/dev/a/up/join"):
        assert device.publish(topic, b"x")
    big.publish(f"ef/1/{FLEET}/dev/a/down/receipt", b"forged")
    big.publish(UPDATE, b"forged")
    assert hears(service) == [UPDATE, f"ef/1/{FLEET}/dev/a/up/join"]
    assert set(hears(big)) == {UPDATE}
    assert (hears(small), hears(mallory), hears(device)) == ([], [], [])
