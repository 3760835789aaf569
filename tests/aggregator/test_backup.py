"""Backups of a running service, and restores after which devices that saw more take part again."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import inspect

from aggregator.adapters import backup_archive, migrations, sql_dump, sql_restore
from aggregator.adapters.authority import Authority, make_authority
from aggregator.adapters.issuing_keys import renew_issuing
from aggregator.adapters.spent_file import SpentFile
from aggregator.adapters.sql_database import changed_database
from aggregator.adapters.sql_devices import SqlDevices
from aggregator.core.enrolment import DeviceRecord, TokenRecord
from aggregator.core.privacy.accounting import epsilon_of
from aggregator.core.privacy.ledger import steps_of
from aggregator.core.restoring import LEAST_JUMP
from aggregator.gate_settings import GateSettings
from aggregator.sole_service import hold_folder
from aggregator.verification import verify_task
from edge_agent.adapters.device_folder import DeviceFolder
from edge_agent.app import Agent
from edge_agent.config import AgentConfig, BrokerSettings, DataSettings, DeviceSettings, TrainerSettings
from edge_agent.lessons import Lessons
from host.keys import save_key
from protocol import codec, topics
from protocol.errors import TrustError
from protocol.jobs import RESIDUAL_FILE, UPDATE_FILE, TrainResult
from protocol.messages import Announce, Work
from tests.aggregator.front_door import Ran, write_config
from tests.aggregator.test_async_runner import asynchronous
from tests.aggregator.test_privacy import DELTA, cost, private
from tests.aggregator.workbench import FLEET, N_PARAMS, PLAN, TASK, Bench, Device, evaluation_sets

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
LOST_AGO_S = 3600.0  # how old a backup is when it is restored


class Played:
    """A service with a past, its settings, and a backup that is taken when the test says so."""

    def __init__(self, run: Callable[..., Ran], bench: Bench, *devices: str) -> None:
        self.run, self.bench, self.file = run, bench, bench.folder / "backup.tar"
        self.config = write_config(bench.folder)
        save_key(bench.folder / "service.key", bench.service_key)
        self.devices = [bench.device(name) for name in devices or ("a", "b")]

    def back_up(self, *options: str) -> Ran:
        said = self.run("backup", "--config", self.config, "--out", self.file, *options)
        assert said.code == 0, said.err
        return said

    def lose(self) -> None:
        """Lose the database and the blobs; what is elsewhere stays."""
        self.bench.stop()
        for path in self.bench.folders.root.glob("aggregator.db*"):
            path.unlink()
        shutil.rmtree(self.bench.blob_folder)

    def restore(self, *options: str) -> Ran:
        return self.run("restore", self.file, "--config", self.config, *options)

    def restart(self) -> None:
        """Start on what is there, as after the machine's return."""
        while self.bench.link.receive(0) is not None:
            pass
        self.bench.link.connected()
        self.bench.start()
        self.bench.settle()


@pytest.fixture
def played(run: Callable[..., Ran], make_bench: Callable[..., Bench]) -> Played:
    """A service with two rounds of two devices behind it, of twenty."""
    one = Played(run, make_bench(rounds=20))
    one.bench.play(*one.devices, rounds=2)
    return one


# -- round trips -----------------------------------------------------------------------------------------------------


def test_a_restored_service_has_the_same_past_and_goes_on_above_it(played: Played) -> None:
    bench = played.bench
    before = [bench.adapter_bytes(version) for version in range(3)]
    said = json.loads(played.back_up("--json").out)
    assert (said["n_blobs"], said["has_keys"]) == (7, False)  # 3 adapters, 4 kept updates
    assert stat.S_IMODE(played.file.stat().st_mode) == 0o600
    bench.play(*played.devices, rounds=2)  # what the backup does not know
    played.lose()
    assert played.restore().code == 0
    played.restart()
    numbers = [one.version for one in bench.store.versions(TASK)]
    assert numbers[:3] == [0, 1, 2]
    assert [bench.adapter_bytes(version) for version in numbers] == [*before, before[2]]
    assert numbers[3] > LEAST_JUMP
    assert bench.round == bench.store.rounds(TASK)[-2].round + 1 > LEAST_JUMP
    bench.play(*played.devices)
    assert bench.version == numbers[3] + 1
    assert bench.store.n_folded(TASK) == 3
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good
    assert bench.lifecycle.standings(TASK)[numbers[3]].origin == 2


def test_devices_that_saw_more_believe_and_answer_a_restored_service(played: Played) -> None:
    bench = played.bench
    agent = RealAgent(bench, "c")
    played.back_up()
    for _ in range(3):
        agent.take_part()
        bench.play(played.devices[0])
    agent.turns()
    seen = agent.agent.state.heard[TASK]
    assert (seen.round, seen.version) == (bench.round, bench.version) == (6, 5)
    played.lose()
    assert played.restore().code == 0
    played.restart()
    version = bench.version
    assert agent.agent.state.heard[TASK].round == seen.round
    agent.take_part()
    bench.play(played.devices[0])
    assert bench.version == version + 1
    assert "c" in {one.device for one in bench.store.updates(TASK, bench.round - 1)}
    agent.close()


def test_without_the_jump_such_a_device_refuses_the_service(played: Played, caplog: Any) -> None:
    bench = played.bench
    agent = RealAgent(bench, "c")
    database = bench.folders.database
    bench.stop()
    copy = database.read_bytes()
    bench.start()
    bench.settle()
    for _ in range(2):
        agent.take_part()
        bench.play(played.devices[0])
    bench.stop()
    for path in bench.folders.root.glob("aggregator.db*"):
        path.unlink()
    database.write_bytes(copy)  # a copied file, not a restored backup
    played.restart()
    with caplog.at_level("INFO"):
        agent.turns()
    assert any("rollback-refused" in str(record.__dict__) for record in caplog.records)
    agent.close()


def test_an_update_for_a_lost_round_is_late(played: Played) -> None:
    bench, (device, other) = played.bench, played.devices
    played.back_up()
    bench.play(device, other)
    device.join()
    bench.settle()
    work = device.last(Work)
    played.lose()
    played.restore()
    played.restart()
    device.update(work=work)
    bench.settle()
    assert device.receipts()[-1] == ("refused", "late")


def test_a_round_that_was_under_way_is_given_up(played: Played) -> None:
    bench, (device, other) = played.bench, played.devices
    for one in (device, other):
        one.join()
        bench.settle()
    device.update()
    bench.settle()
    played.back_up()
    other.update()
    bench.settle()
    played.lose()
    (facts,) = json.loads(played.restore("--json").out)["tasks"]
    assert facts["discarded_round"] == 3
    played.restart()
    assert [one.state for one in bench.store.rounds(TASK)] == ["folded", "folded", "abandoned", "abandoned", "open"]
    assert [one.status for one in bench.store.updates(TASK, 3)] == ["discarded"]
    bench.play(device, other)
    assert bench.store.n_folded(TASK) == 3


def test_the_same_backup_restored_twice_goes_up_twice(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    played.back_up()
    numbers = []
    now = time.time()
    for elapsed_s in (LOST_AGO_S, 2 * LOST_AGO_S):
        played.lose()
        monkeypatch.setattr(time, "time", lambda at=now + elapsed_s: at)
        assert played.restore().code == 0
        monkeypatch.undo()
        played.restart()
        played.bench.play(*played.devices)
        numbers.append((played.bench.store.rounds(TASK)[-2].round, played.bench.store.versions(TASK)[-2].version))
    assert numbers[1][0] > numbers[0][0]
    assert numbers[1][1] > numbers[0][1]


def test_a_backup_of_an_older_schema_is_upgraded(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    # A dump as an edgefold of revision 0007 made it: the tables of later ones are not in it.
    with changed_database(played.bench.folder / "old.db") as connection:
        migrations.upgrade(connection, "0007")
        old = set(inspect(connection).get_table_names()) - sql_dump.LEFT_BEHIND
    names = [table.name for table in sql_dump.METADATA.sorted_tables if table.name in old]
    monkeypatch.setattr(sql_dump.Snapshot, "table_names", names)
    monkeypatch.setattr(migrations, "HEAD", "0007")
    monkeypatch.setattr(migrations, "is_current", lambda _database: True)
    played.back_up()
    monkeypatch.undo()
    played.lose()
    with backup_archive.opened_backup(played.file) as opened:
        assert opened.manifest.revision == "0007"
        assert "tables/retention.jsonl" not in opened.manifest.members
    said = played.restore()
    assert said.code == 0, said.err
    played.restart()
    assert played.bench.store.n_folded(TASK) == 2


def test_a_candidate_is_not_promoted_by_a_restore(run: Callable[..., Ran], make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(rounds=9)
    bench.stop()
    changes = {"evaluation": evaluation_sets(bench.folder), "gate": GateSettings(metric="loss", margin=0.5)}
    bench.settings = dataclasses.replace(bench.settings, **changes)
    bench.start()
    played = Played(run, bench)
    sets = 'sets = {tweets = "tweets.jsonl", films = "films.jsonl"}'
    played.config.write_text(
        played.config.read_text() + f'[task.evaluation]\n{sets}\n[task.gate]\nmetric = "loss"\nmargin = 0.5\n'
    )
    bench.settle()
    bench.play(*played.devices)
    bench.settle()
    bench.evaluator.start = lambda _request, _on_end: None  # type: ignore[method-assign, misc]
    bench.play(*played.devices)  # version 2 waits for its figures
    played.back_up()
    played.lose()
    (facts,) = json.loads(played.restore("--json").out)["tasks"]
    assert facts["origin"] == 1
    played.restart()
    standings = bench.lifecycle.standings(TASK)
    assert standings[2].status == "rejected"
    assert standings[facts["version"]].status == "promoted"
    assert bench.store.evaluations(TASK)[facts["version"]].sets == bench.store.evaluations(TASK)[1].sets


def test_an_asynchronous_task_goes_on_and_wants_nothing_from_before(
    run: Callable[..., Ran], make_bench: Callable[..., Bench]
) -> None:
    bench = make_bench(**asynchronous(), cohort=2, min_cohort=1)
    played = Played(run, bench)
    text = played.config.read_text().replace('id = "sent', 'mode = "async"\nstrategy = "fedbuff"\nid = "sent')
    played.config.write_text(text + "[task.asynchronous]\nconcurrency = 4\n")
    for device in played.devices:
        device.join()
        bench.settle()
    played.devices[0].update()
    bench.settle()
    played.back_up()
    played.devices[1].update()
    bench.settle()
    work = played.devices[1].last(Work)
    played.lose()
    (facts,) = json.loads(played.restore("--json").out)["tasks"]
    assert facts["discarded_round"] == 1
    played.restart()
    assert bench.store.buffered(TASK, bench.round) == ()
    played.devices[1].update(seed=1, work=work)
    bench.settle()
    assert played.devices[1].receipts()[-1] == ("refused", "stale")
    bench.play(*played.devices)
    assert bench.version == facts["version"] + 1
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good


# -- what a backup leaves out ----------------------------------------------------------------------------------------


def test_keys_are_in_it_only_if_asked_for(played: Played) -> None:
    bench = played.bench
    raw = bench.service_key.raw.hex().encode()
    played.back_up()
    assert raw not in played.file.read_bytes()
    assert bench.setup.keys.of_round(1).raw.hex().encode() not in played.file.read_bytes()
    played.file.unlink()
    said = played.back_up("--with-keys")
    assert said.err.startswith("warning: with the keys in it")
    assert stat.S_IMODE(played.file.stat().st_mode) == 0o600
    assert raw in played.file.read_bytes()


def test_keys_come_back_where_they_were_lost(played: Played) -> None:
    key = played.bench.setup.keys.of_round(1).raw
    played.back_up("--with-keys")
    played.lose()
    shutil.rmtree(played.bench.folders.root / "keys")
    (played.bench.folder / "service.key").unlink()
    assert played.restore().code == 0
    played.restart()
    assert played.bench.setup.keys.of_round(1).raw == key
    assert stat.S_IMODE((played.bench.folder / "service.key").stat().st_mode) == 0o600
    played.bench.play(*played.devices)


def test_an_authority_whose_issuing_key_was_renewed_comes_back_whole(played: Played) -> None:
    folder, now = played.bench.folder / "ca", datetime.now(UTC)
    make_authority(folder, fleet=FLEET, host="127.0.0.1", now=now)
    root_key = (folder / "root.key").rename(played.bench.folder / "offline.key")
    until_unix_s = now.timestamp() + 86_400.0
    renew_issuing(folder, FLEET, root_key_file=root_key, keep_until_unix_s=until_unix_s, now=now)
    with Path(played.config).open("a", encoding="utf-8") as config:
        config.write('[authority]\nfolder = "ca"\nhost = "127.0.0.1"\n')
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    played.back_up("--with-keys")
    played.lose()
    shutil.rmtree(folder)
    said = played.restore()
    assert said.code == 0, said.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    Authority(folder).write_crl([], unix_s=now.timestamp())


def test_a_restore_without_the_services_key_is_refused_before_anything_is_written(played: Played) -> None:
    played.back_up()
    played.lose()
    (played.bench.folder / "service.key").unlink()
    said = played.restore()
    assert (said.code, "devices believe no other" in said.line) == (2, True)
    assert not played.bench.folders.database.exists()
    assert not played.bench.blob_folder.exists()


def test_what_could_be_taken_back_does_not_come_back(played: Played) -> None:
    with closing(SqlDevices(played.bench.folders.database)) as devices:
        tokens = [TokenRecord(digest=bytes([n] * 32), expires_unix_s=2e9) for n in (1, 2)]
        devices.add_tokens(tokens)
        revoked = DeviceRecord(device="gone", verify_key=bytes(32), status="revoked", since_unix_s=1.0)
        devices.use_token(tokens[1], revoked, None)
    assert played.run("serve", "token", "--role", "admin", "--config", played.config).code == 0
    played.bench.lifecycle.ask(TASK, "stop", version=None, unix_s=1.0)
    played.back_up()
    played.lose()
    played.restore()
    with closing(SqlDevices(played.bench.folders.database)) as devices:
        assert devices.tokens() == []
        assert devices.to_shut_out() == ["gone"]
    assert json.loads(played.run("serve", "tokens", "--json", "--config", played.config).out) == {"tokens": []}
    played.restart()
    assert played.bench.lifecycle.waiting() == ()


# -- privacy ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def spending(run: Callable[..., Ran], make_bench: Callable[..., Bench]) -> Played:
    """A task whose budget pays for five rounds; one is in the backup, one was spent after it."""
    settings = private(epsilon=cost(5) + 0.01)
    bench = make_bench(privacy=settings, rounds=10)
    one = Played(run, bench)
    dp = settings.dp
    assert dp is not None
    one.config.write_text(
        one.config.read_text()
        + f"[task.privacy.dp]\nmode = '{dp.mode}'\nepsilon = {dp.epsilon}\ndelta = {dp.delta}\nclip = {dp.clip}\n"
        f"noise_multiplier = {dp.noise_multiplier}\n[task.plan]\nclip_update_norm = 1.0\n"
        "[task.plan.optimizer]\n[task.plan.codec]\n"
    )
    bench.play(*one.devices)
    one.back_up()
    bench.play(*one.devices)
    return one


def spent(played: Played) -> float:
    entries = SpentFile(played.bench.folders.spent(TASK)).read()
    return epsilon_of(steps_of(entries), delta=DELTA)


def test_the_live_second_record_keeps_what_was_spent_after_the_backup(spending: Played) -> None:
    spending.lose()
    assert spending.restore().code == 0
    spending.restart()
    draw = spending.bench._draw_secret
    spending.bench._draw_secret = lambda n: draw(n)[::-1]  # type: ignore[method-assign]
    spending.bench.play(*spending.devices, rounds=3)
    assert spent(spending) == pytest.approx(cost(5))
    assert spending.bench.runner.is_finished


def test_without_it_nothing_is_restored_until_the_operator_says_what_was_spent(spending: Played) -> None:
    spending.lose()
    record = spending.bench.folders.spent(TASK)
    record.unlink()
    said = spending.restore()
    assert said.code == 2
    assert "--spent-rounds" in said.line
    assert "which is not there" in said.line
    assert spending.restore().code == 2  # a failed try is no evidence
    assert spending.restore("--spent-rounds", "2").code == 0
    spending.restart()
    assert spent(spending) == pytest.approx(cost(3))
    spending.bench.play(*spending.devices, rounds=2)
    assert spent(spending) == pytest.approx(cost(5))
    assert spending.bench.runner.is_finished


def test_an_older_copy_of_it_is_no_evidence(spending: Played) -> None:
    spending.lose()
    spending.bench.folders.spent(TASK).write_text("[]")
    assert "is older than the backup" in spending.restore().line


def test_or_such_a_task_stops_for_good(spending: Played) -> None:
    spending.lose()
    spending.bench.folders.spent(TASK).unlink()
    (facts,) = json.loads(spending.restore("--stop-private", "--json").out)["tasks"]
    assert facts["is_stopped"]
    spending.restart()
    assert spending.bench.runner.is_finished
    assert spending.devices[0].last(Announce).state == "finished"


# -- beside a running service, and interrupted -----------------------------------------------------------------------


def test_a_blob_that_is_retired_meanwhile_begins_the_backup_again(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, real = played.bench, backup_archive.WritingBackup.add_bytes
    done = []

    def add(self: Any, name: str, data: bytes) -> None:
        if name.startswith("blobs/") and not done:
            done.append(name)
            gone = bench.retention_rows.retire_versions(TASK, [1])
            for blob in gone:
                bench.blobs.remove(blob)
        real(self, name, data)

    monkeypatch.setattr(backup_archive.WritingBackup, "add_bytes", add)
    played.back_up()
    with backup_archive.opened_backup(played.file) as opened:
        versions = [json.loads(line)[1] for line in opened.lines("tables/versions.jsonl")]
    assert versions == ["version", 0, 2]


def test_a_blob_that_is_really_missing_is_an_error_and_leaves_no_file(played: Played) -> None:
    played.bench.blobs.remove(played.bench.store.versions(TASK)[1].state["adapter"])
    said = played.run("backup", "--config", played.config, "--out", played.file)
    assert (said.code, "missing" in said.line) == (4, True)
    assert [path.name for path in played.bench.folder.glob("*backup*")] == []


def test_what_is_written_during_a_backup_is_in_it_whole_or_not_at_all(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, real = played.bench, sql_dump.Snapshot.lines

    def lines(self: Any, name: str, *, with_secrets: bool) -> Any:
        if name == "rounds":  # between two tables that must agree
            bench.play(*played.devices)
        yield from real(self, name, with_secrets=with_secrets)

    monkeypatch.setattr(sql_dump.Snapshot, "lines", lines)
    played.back_up()
    played.lose()
    assert played.restore().code == 0
    played.restart()
    assert bench.store.n_folded(TASK) == 2
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good


def test_a_full_disk_leaves_no_backup_and_one_line(played: Played) -> None:
    command = [sys.executable, "-c", (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "import edgefold; sys.argv = ['edgefold', 'backup', '--config', sys.argv[1], '--out', sys.argv[2]];"
        "edgefold.main()"
    ), str(played.config), str(played.file)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1), done.stderr
    assert "File too large" in done.stderr
    assert [path.name for path in played.bench.folder.glob("*backup*")] == []
    assert [path.name for path in played.bench.folder.glob(".partial*")] == []


def test_an_interrupted_restore_has_restored_nothing_and_can_be_repeated(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.back_up()
    played.lose()
    real = sql_restore._lift

    def killed(*arguments: Any, **facts: Any) -> None:
        real(*arguments, **facts)
        raise KeyboardInterrupt

    monkeypatch.setattr(sql_restore, "_lift", killed)
    assert played.restore().code != 0
    monkeypatch.undo()
    assert played.restore().code == 0
    played.restart()
    assert played.bench.store.n_folded(TASK) == 2


# -- what is refused -------------------------------------------------------------------------------------------------


def test_nothing_is_replaced(played: Played) -> None:
    played.back_up()
    before = played.bench.folders.database.read_bytes()
    said = played.restore()
    assert (said.code, "never replaces one" in said.line) == (2, True)
    assert played.bench.folders.database.read_bytes() == before
    again = played.run("backup", "--config", played.config, "--out", played.file)
    assert (again.code, "never replaces another" in again.line) == (2, True)


def test_a_running_service_is_not_restored_over(played: Played) -> None:
    played.back_up()
    played.lose()
    with ExitStack() as stack:
        hold_folder(played.bench.folders.root, stack)
        assert "another edgefold serve" in played.restore().line


def test_a_backup_of_another_fleet_is_refused(played: Played) -> None:
    played.back_up()
    played.lose()
    played.config.write_text(played.config.read_text().replace('fleet = "test"', 'fleet = "other"'))
    assert "a backup of fleet test, not of other" in played.restore().line


def test_a_newer_backup_is_refused(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "is_current", lambda _database: True)
    monkeypatch.setattr(migrations, "HEAD", "9999")
    played.back_up()
    monkeypatch.undo()
    played.lose()
    assert "made by a newer edgefold" in played.restore().line


@pytest.mark.parametrize("cut", [0, 511, 700, -5000])
def test_a_backup_that_was_cut_short_is_refused(played: Played, cut: int) -> None:
    played.back_up()
    data = played.file.read_bytes().rstrip(b"\0")
    played.file.write_bytes(data[:cut])
    played.lose()
    said = played.restore()
    assert (said.code, "not a whole backup" in said.line) == (3, True)
    assert not played.bench.folders.database.exists()


def test_a_changed_byte_anywhere_is_refused(played: Played) -> None:
    played.back_up()
    data = bytearray(played.file.read_bytes())
    rng = np.random.default_rng(0)
    with tarfile.open(played.file) as tar:
        spans = [(one.offset_data, one.size) for one in tar if one.size]
    for offset, size in spans:
        at = offset + int(rng.integers(size))
        data[at] ^= 1
        played.file.write_bytes(data)
        with pytest.raises(TrustError), backup_archive.opened_backup(played.file):
            pass
        data[at] ^= 1


def hostile(**changes: Any) -> bytes:
    info = tarfile.TarInfo(changes.pop("name", "tables/tasks.jsonl"))
    content = changes.pop("content", b"[]\n")
    info.size = len(content)
    for name, value in changes.items():
        setattr(info, name, value)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
        tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return file.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../etc/passwd"},
        {"name": "/etc/passwd"},
        {"name": "blobs/../../x"},
        {"name": "blobs/" + "g" * 64},
        {"name": "keys/authority/../x.key"},
        {"name": "keys/task/../../x.taskkey"},
        {"name": "tables/sqlite_master.jsonl\n"},
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "tables/tasks.jsonl"},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.DIRTYPE},
        {},  # one name twice
        {"name": "manifest.json", "content": b"{" * 100_000},
        {"name": "manifest.json", "content": b"[]"},
    ],
)
def test_hostile_members_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = tmp_path / "backup.tar"
    file.write_bytes(hostile(**changes))
    with pytest.raises(TrustError), backup_archive.opened_backup(file):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["backup.tar"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("tasks", b'["task","bundle_id","strategy","wrong"]\n'),
        ("tasks", b'["task"]\n["a","b"]\n'),
        ("tasks", b'["task"]\n{"a":1}\n'),
        ("tasks", b"not json\n"),
        ("sums", b'["state"]\n[{"hex":"zz"}]\n'),
        ("strange", b"[]\n"),
    ],
)
def test_rows_that_are_none_of_ours_are_refused(played: Played, name: str, lines: bytes) -> None:
    manifest = backup_archive.BackupManifest(fleet=FLEET, revision=migrations.HEAD, created_unix_s=1.0, has_keys=False)
    with backup_archive.writing_backup(played.file) as archive:
        archive.add_bytes(f"tables/{name}.jsonl", lines)
        archive.end(manifest)
    played.lose()
    said = played.restore()
    assert said.code == 3, said.err
    with changed_database(played.bench.folders.database) as connection:
        migrations.upgrade(connection)
        assert sql_dump.is_empty(connection)


def test_where_nothing_ran_there_is_nothing_to_back_up(run: Callable[..., Ran], tmp_path: Path) -> None:
    said = run("backup", "--config", write_config(tmp_path), "--out", tmp_path / "x")
    assert (said.code, "nothing to back up" in said.line) == (2, True)


class RealAgent:
    """A real agent on the bench's broker, whose trainer ends at once."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench, self.device = bench, Device(bench, name)
        bench.devices[name] = self.device.key.public
        self.folder = DeviceFolder(bench.folder / f"agent-{name}")
        self.link = bench.broker.link([topics.my_down(FLEET, name), topics.all_announcements(FLEET)])
        key = bench.service_key.public
        config = AgentConfig(
            device=DeviceSettings(fleet=FLEET, id=name, key="k", service_key=key.raw.hex(), bundles=("b",)),
            broker=BrokerSettings(url="mqtt://127.0.0.1"),
            data=DataSettings(train="x.jsonl"),
            trainer=TrainerSettings(threads=1),
        )
        self.agent = Agent(
            config,
            lessons=Lessons(bench.folder / "x.jsonl"),
            bundles={bench.bundle_id: bench.bundle},
            key=self.device.key,
            link=self.link,
            service_key=key,
            folder=self.folder,
            start_trainer=self.train,
        )

    def train(self, job: Any, *, on_end: Callable[[Any], None], on_progress: Any) -> RealAgent:
        del on_progress
        delta = np.full(N_PARAMS, 0.01, np.float32)
        (Path(job.out) / UPDATE_FILE).write_bytes(codec.encode(delta, PLAN.codec))
        (Path(job.out) / RESIDUAL_FILE).write_bytes(bytes(4 * N_PARAMS))
        figures = {"train_s": 0.1, "wall_s": 0.2, "peak_memory_bytes": 1, "update_norm": 1.0, "encoded_bytes": 1}
        on_end(TrainResult(n_examples=5, n_steps=2, loss=0.5, **figures))
        return self

    def turns(self) -> None:
        for _ in range(3):
            self.link.wake()
            while not self.link._events.empty():
                self.agent.turn()
            self.bench.settle()

    def take_part(self) -> None:
        for _ in range(3):
            self.turns()

    def close(self) -> None:
        self.folder.close()
