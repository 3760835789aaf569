"""The past stays within its bounds while rounds go on, and nothing that is still needed goes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.sql_reports import SqlReports
from aggregator.adapters.tables import METADATA
from aggregator.retention import LIMIT
from aggregator.retention_settings import RetentionSettings
from aggregator.sole_service import hold_folder
from aggregator.verification import verify_task
from protocol.jobs import EvaluateResult, SetResult
from tests.aggregator.front_door import Ran, write_config
from tests.aggregator.workbench import FLEET, TASK, Bench, Device, KilledError, evaluation_sets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIGHT = RetentionSettings(versions=10, rounds=10)


def served(make_bench: Callable[..., Bench], *, keep: bool = False, **bounds: int) -> tuple[Bench, list[Device]]:
    settings = RetentionSettings(**{"versions": 10, "rounds": 10, **bounds})
    bench = make_bench(rounds=500, cohort=1, min_cohort=1, retention=settings)
    bench.keep_folded_updates = keep
    bench.restart()
    return bench, [bench.device("a")]


def stored(bench: Bench) -> dict[str, int]:
    """Return the rows of each table and the number of blobs."""
    with closing(sqlite3.connect(bench.folders.database)) as connection:
        counts = {
            table.name: connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]  # noqa: S608
            for table in METADATA.sorted_tables
        }
    return {**counts, "blobs": len(bench.blobs.sizes())}


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_stored_stops_growing(make_bench: Callable[..., Bench], *, keep: bool) -> None:
    bench, devices = served(make_bench, keep=keep, **({"folded_rounds": 5} if keep else {}))
    bench.play(*devices, rounds=18)
    early = stored(bench)
    bench.play(*devices, rounds=12)
    assert stored(bench) == early
    assert bench.version == 30
    assert early["versions"] == 11  # the newest ten and the bundle's own
    assert early["rounds"] <= 11


def test_counts_are_the_same_before_and_after(make_bench: Callable[..., Bench]) -> None:
    bench, devices = served(make_bench)
    loose = make_bench("loose", rounds=500, cohort=1, min_cohort=1)
    loose.play(loose.device("a"), rounds=15)
    bench.play(*devices, rounds=15)
    with closing(SqlReports(bench.folders.database)) as tight, closing(SqlReports(loose.folders.database)) as all_:
        assert tight.totals() == all_.totals()
        assert tight.totals_of(TASK) == all_.totals_of(TASK)
        assert tight.activity(["a"]) == all_.activity(["a"])
        assert tight.participants() == all_.participants() == ["a"]
    assert bench.store.participation(TASK) == loose.store.participation(TASK) == {"a": 15}
    assert bench.store.n_folded(TASK) == 15
    assert bench.adapter_bytes() == loose.adapter_bytes()


def test_a_task_ends_after_as_many_rounds_as_were_asked_for(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(rounds=14, cohort=1, min_cohort=1, retention=TIGHT)
    device = bench.device("a")
    bench.play(device, rounds=14)
    assert bench.runner.is_finished
    bench.restart()
    assert (bench.runner.is_finished, bench.version) == (True, 14)


def test_a_long_past_goes_a_little_at_a_time(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(rounds=500, cohort=1, min_cohort=1)
    bench.keep_folded_updates = False
    device = bench.device("a")
    bench.play(device, rounds=30)
    bench.retention = TIGHT
    bench.restart()
    assert len(bench.store.versions(TASK)) == 31 - LIMIT
    bench.play(device)
    assert len(bench.store.versions(TASK)) == 32 - 2 * LIMIT
    bench.play(device, rounds=4)
    assert len(bench.store.versions(TASK)) == 11


def test_a_rollback_shares_blobs_that_stay(make_bench: Callable[..., Bench]) -> None:
    bench, devices = served(make_bench)
    bench.play(*devices, rounds=3)
    kept = bench.adapter_bytes(1)
    assert bench.command("rollback", 1) == ("done", "")
    bench.play(*devices, rounds=8)  # version 1 goes, version 4 has its content
    numbers = [one.version for one in bench.store.versions(TASK)]
    assert (1 in numbers, 4 in numbers) == (False, True)
    assert bench.adapter_bytes(4) == kept


def test_kept_updates_within_their_bound_fold_again(make_bench: Callable[..., Bench]) -> None:
    bench, devices = served(make_bench, keep=True, folded_rounds=4)
    bench.play(*devices, rounds=16)
    mark = bench.retention_rows.mark(TASK)
    found = verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET, mark=mark)
    assert found.is_good, found
    assert [one.version for one in found.versions if one.round is not None][-4:] == list(range(13, 17))
    bench.blobs.remove(bench.store.updates(TASK, 15)[0].blob)
    assert not verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET, mark=mark).is_good


def test_without_a_bound_kept_updates_keep_their_versions(make_bench: Callable[..., Bench]) -> None:
    bench, devices = served(make_bench, keep=True)
    bench.play(*devices, rounds=15)
    assert len(bench.store.versions(TASK)) == 16
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good


@pytest.mark.parametrize(
    ("when", "effect"),
    [("before", "retire_rounds"), ("after", "retire_versions"), ("after", "retire_updates"), ("after", "remove")],
)
def test_a_kill_while_tidying_leaves_every_row_its_blobs(
    make_bench: Callable[..., Bench], when: str, effect: str
) -> None:
    bench, devices = served(make_bench, keep=True, folded_rounds=2)
    bench.play(*devices, rounds=11)

    def kill(name: str) -> None:
        if name == effect:
            raise KilledError

    setattr(bench.hooks, when, kill)
    with pytest.raises(KilledError):
        bench.play(*devices, rounds=5)
    bench.hooks.before = bench.hooks.after = lambda _name: None
    bench.restart()
    named = bench.store.blobs_in_use(keep_folded=True)
    assert named == set(bench.blobs.sizes())  # nothing missing, no orphan left
    before = bench.version
    for device in devices:
        device.read()
    bench.play(*devices, rounds=3)
    assert bench.version >= before + 2  # an update may have been in flight


def test_a_replay_of_a_retired_round_is_late(make_bench: Callable[..., Bench]) -> None:
    bench, (device,) = served(make_bench)
    device.join()
    bench.settle()
    update = device.update()
    bench.settle()
    bench.play(device, rounds=12)
    device.publish(update, "update")
    bench.settle()
    assert device.receipts()[-1] == ("refused", "late")


def test_an_evaluation_of_a_version_that_went_is_dropped(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make_bench(rounds=99, cohort=1, min_cohort=1, retention=TIGHT, evaluation=evaluation_sets(tmp_path))
    bench.keep_folded_updates = False
    bench.restart()
    answers = []
    bench.evaluator.start = lambda _request, on_end: answers.append(on_end)  # type: ignore[method-assign]
    bench.play(bench.device("a"), rounds=14)
    sets = {"films": SetResult(n_examples=1, n_correct=1, loss=0.5)}
    for _ in range(60):
        if answers:
            answers.pop()(EvaluateResult(sets=sets, wall_s=0.1, peak_memory_bytes=1))
        bench.settle()
    known = {one.version for one in bench.store.versions(TASK)}
    assert bench.store.evaluations(TASK).keys() <= known
    assert bench.version in bench.store.evaluations(TASK)


def test_gc_shows_and_takes_out(run: Callable[..., Ran], make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(rounds=500, cohort=1, min_cohort=1)
    bench.keep_folded_updates = False
    bench.restart()
    bench.play(bench.device("a"), rounds=30)
    (bench.blob_folder / ("0" * 64)).write_bytes(b"orphan")
    config = write_config(bench.folder, keep=False)
    config.write_text(
        config.read_text().replace("[broker]", "[service.retention]\nversions = 10\nrounds = 10\n[broker]")
    )
    looked = json.loads(run("serve", "gc", "--config", config, "--dry-run", "--json").out)
    assert looked["before"] == looked["after"]
    (facts,) = looked["after"]["tasks"]
    assert facts == {"task": TASK, "versions": 31, "versions_due": 20, "rounds": 31, "rounds_due": 21}
    assert looked["after"]["unnamed_blobs"] == 1
    assert "20 and 21 to go" in run("serve", "gc", "--config", config, "--dry-run").out
    done = json.loads(run("serve", "gc", "--config", config, "--json").out)["after"]
    assert (done["blobs"], done["unnamed_blobs"], done["tasks"][0]["versions"]) == (11, 0, 11)
    assert run("serve", "gc", "--config", config).out.endswith("0 blobs, 0 bytes went\n")


def test_gc_beside_a_running_service_only_looks(run: Callable[..., Ran], bench: Bench) -> None:
    config = write_config(bench.folder)
    with ExitStack() as stack:
        hold_folder(bench.folders.root, stack)
        said = run("serve", "gc", "--config", config)
        assert said.code == 2
        assert "tidies up by itself" in said.line
        assert run("serve", "gc", "--config", config, "--dry-run").code == 0


def test_gc_where_nothing_ran_is_one_line(run: Callable[..., Ran], tmp_path: Path) -> None:
    said = run("serve", "gc", "--config", write_config(tmp_path))
    assert (said.code, "no service has run here" in said.line) == (2, True)
