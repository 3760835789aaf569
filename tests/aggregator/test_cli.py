"""The commands as a person uses them: tables, JSON, and for each mistake one line and no traceback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.aggregator.front_door import Ran, write_config
from tests.aggregator.workbench import TASK, Bench, evaluation_sets, make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def played(make_bench: Callable[..., Bench], tmp_path: Path) -> tuple[Bench, Path]:
    """A finished task, evaluated, with one refused message."""
    bench = make_bench(evaluation=evaluation_sets(tmp_path))
    a, b = bench.device("a"), bench.device("b")
    bench.play(a, b, rounds=2)
    a.join(round_=1)
    bench.settle()
    return bench, write_config(bench.folder)


def test_list_shows_each_task(run: Callable[..., Ran], played: tuple[Bench, Path]) -> None:
    ran = run("task", "list", "--config", played[1])
    assert ran.code == 0
    assert TASK in ran.out
    assert "finished" in ran.out


def test_show_is_json_of_everything(run: Callable[..., Ran], played: tuple[Bench, Path]) -> None:
    facts: dict[str, Any] = json.loads(run("task", "show", TASK, "--config", played[1], "--json").out)
    assert (facts["state"], facts["version"]) == ("finished", 2)
    assert [one["state"] for one in facts["rounds"]] == ["folded", "folded"]
    assert facts["rounds"][0]["n_updates"] == 2
    assert facts["rounds"][0]["loss"] == pytest.approx(0.5)
    assert facts["versions"][2]["pooled_accuracy"] == pytest.approx(0.55)
    assert facts["versions"][2]["sets"]["films"]["n_examples"] == 10
    assert facts["refusals"] == {"finished": 1}


def test_show_is_tables_for_people(run: Callable[..., Ran], played: tuple[Bench, Path]) -> None:
    ran = run("task", "show", TASK, "--config", played[1])
    assert all(word in ran.out for word in ("rounds", "versions", "refused", "finished"))


def test_verify_folds_again_and_finds_the_same_bytes(run: Callable[..., Ran], played: tuple[Bench, Path]) -> None:
    ran = run("task", "verify", TASK, "--config", played[1], "--json")
    facts = json.loads(ran.out)
    assert ran.code == 0
    assert facts["ok"]
    assert [(one["version"], one["n_updates"]) for one in facts["versions"]] == [(0, 0), (1, 2), (2, 2)]


def test_verify_notices_an_update_that_is_gone(run: Callable[..., Ran], played: tuple[Bench, Path]) -> None:
    bench, config = played
    bench.blobs.remove(bench.store.updates(TASK, 2)[0].blob)
    ran = run("task", "verify", TASK, "--config", config)
    assert ran.code == 3
    assert "1 versions are not what their updates fold to" in ran.line


def test_verify_notices_a_version_that_was_changed(run: Callable[..., Ran], played: tuple[Bench, Path]) -> None:
    bench, config = played
    forged = bench.blobs.put(bytes(len(bench.adapter_bytes())))
    with bench.store._writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET state = ? WHERE version = 2", (f'{{"adapter": "{forged}"}}',))
    ran = run("task", "verify", TASK, "--config", config)
    assert ran.code == 3
    assert "folding again gives other bytes" in " ".join(ran.out.split())


def test_verify_needs_kept_updates(run: Callable[..., Ran], played: tuple[Bench, Path]) -> None:
    config = write_config(played[0].folder, keep=False)
    assert "keep_folded_updates is false" in run("task", "verify", TASK, "--config", config).line


def test_an_unknown_task_is_one_line_with_the_known_ones(run: Callable[..., Ran], played: tuple[Bench, Path]) -> None:
    ran = run("task", "show", "sentimant", "--config", played[1])
    assert ran.code == 2
    assert f"known are: {TASK}" in ran.line


def test_no_service_yet_is_one_line(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("task", "list", "--config", write_config(tmp_path))
    assert ran.code == 2
    assert "no service has run here yet" in ran.line


@pytest.mark.parametrize("command", [("serve",), ("broker",), ("task", "list")])
def test_a_missing_configuration_is_one_line(run: Callable[..., Ran], command: tuple[str, ...], tmp_path: Path) -> None:
    ran = run(*command, "--config", tmp_path / "none.toml")
    assert ran.code == 2
    assert "no such configuration file" in ran.line


def broken_bundle(folder: Path) -> None:
    (make_bundle(folder / "bundle") / "train.onnx").write_bytes(b"another graph")


def other_key_file(folder: Path) -> None:
    make_bundle(folder / "bundle")
    (folder / "service.key").write_text("not hex\n")
    (folder / "service.key").chmod(0o600)


def no_registry(folder: Path) -> None:
    make_bundle(folder / "bundle")
    (folder / "devices.toml").unlink()


def bad_registry(folder: Path) -> None:
    make_bundle(folder / "bundle")
    (folder / "devices.toml").write_text('[devices]\nservice = "' + "0" * 64 + '"\n')


def no_evaluation_set(folder: Path) -> None:
    make_bundle(folder / "bundle")
    with (folder / "aggregator.toml").open("a") as file:
        file.write('[task.evaluation]\nsets = {tweets = "tweets.jsonl"}\n')


def not_a_database(folder: Path) -> None:
    make_bundle(folder / "bundle")
    (folder / "state").mkdir()
    (folder / "state" / "aggregator.db").write_bytes(b"something else entirely" * 100)


@pytest.mark.usefixtures("no_logs")
@pytest.mark.parametrize(
    ("break_it", "code", "line"),
    [
        (lambda _folder: None, 3, "no bundle here"),
        (broken_bundle, 3, "train.onnx: expected 28 bytes, found 13"),
        (other_key_file, 2, "service.key: not a key file"),
        (no_registry, 2, "devices.toml: no such configuration file"),
        (bad_registry, 2, "devices.service: this name is the aggregator's own"),
        (no_evaluation_set, 2, "it is the evaluation set tweets of task sentiment"),
        (not_a_database, 4, "not a database of edgefold"),
    ],
)
def test_serve_says_what_is_wrong_in_one_line(
    break_it: Callable[[Path], None], code: int, line: str, run: Callable[..., Ran], tmp_path: Path
) -> None:
    config = write_config(tmp_path)
    break_it(tmp_path)
    ran = run("serve", "--config", config)
    assert line in ran.line
    assert ran.code == code


def test_the_strategies_are_listed_with_their_needs(run: Callable[..., Ran]) -> None:
    done = run("strategies", "--json")
    assert done.code == 0
    listed = json.loads(done.out)["strategies"]
    assert listed["fedprox"]["options"] == {"mu": 0.01}
    assert listed["scaffold"]["options"]["n_devices"] is None
    assert listed["flora"]["open_base"]
    assert not listed["fedit"]["open_base"]
    table = run("strategies")
    assert table.code == 0
    assert "fedex-lora" in table.out
    assert "refused" not in table.out
