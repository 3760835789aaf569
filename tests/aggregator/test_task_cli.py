"""The commands that steer tasks, beside a database that no service uses, and the mistakes that people make."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.sql_lifecycle import SqlLifecycle
from aggregator.created_tasks import to_settings
from tests.aggregator.front_door import Ran, write_config
from tests.aggregator.workbench import TASK, Bench, make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE = """
id = "second"
bundle = "other"
rounds = 3
cohort = 2
min_cohort = 1
[selection]
over_select = 1.5
"""


@pytest.fixture
def ran(make_bench: Callable[..., Bench]) -> tuple[Bench, Path]:
    """A task with one version, whose service is not running."""
    bench = make_bench()
    bench.play(bench.device("a"), bench.device("b"))
    make_bundle(bench.folder / "other", seed=3)
    (bench.folder / "second.toml").write_text(FILE)
    return bench, write_config(bench.folder)


def waiting(bench: Bench) -> list[tuple[str, str, int | None]]:
    return [(one.task, one.verb, one.version) for one in bench.lifecycle.waiting()]


@pytest.mark.parametrize("verb", ["pause", "stop"])
def test_without_a_service_a_command_is_written_down(
    run: Callable[..., Ran], ran: tuple[Bench, Path], verb: str
) -> None:
    said = run("task", verb, TASK, "--config", ran[1], "--wait", 0, "--json")
    assert said.code == 0
    assert json.loads(said.out) == {"task": TASK, "command": verb, "version": None, "status": "waiting"}
    assert waiting(ran[0]) == [(TASK, verb, None)]


def test_a_command_that_was_written_down_takes_effect_at_the_next_start(
    run: Callable[..., Ran], ran: tuple[Bench, Path]
) -> None:
    bench, config = ran
    assert "when it next runs" in run("task", "rollback", TASK, 0, "--config", config, "--wait", 0).out
    bench.restart()
    bench.settle()
    assert bench.adapter_bytes(2) == bench.adapter_bytes(0)
    shown = json.loads(run("task", "show", TASK, "--config", config, "--json").out)
    assert (shown["promoted"], shown["versions"][2]["origin"]) == (2, 0)
    assert shown["versions"][2]["why"] == "rollback by the operator"


def test_create_keeps_the_settings_with_their_hash(run: Callable[..., Ran], ran: tuple[Bench, Path]) -> None:
    bench, config = ran
    said = json.loads(
        run("task", "create", bench.folder / "second.toml", "--config", config, "--wait", 0, "--json").out
    )
    (record,) = bench.lifecycle.created()
    assert said["settings_sha256"] == record.digest
    settings = to_settings(record)
    assert (settings.bundle, settings.selection.over_select) == (str(bench.folder / "other"), 1.5)
    assert waiting(bench) == [("second", "create", None)]


def test_create_works_before_the_first_start(run: Callable[..., Ran], tmp_path: Path) -> None:
    make_bundle(tmp_path / "other")
    (tmp_path / "second.toml").write_text(FILE)
    config = write_config(tmp_path)
    assert run("task", "create", tmp_path / "second.toml", "--config", config, "--wait", 0).code == 0
    lifecycle = SqlLifecycle(tmp_path / "state" / "aggregator.db")
    assert [one.task for one in lifecycle.created()] == ["second"]
    lifecycle.close()


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        (FILE.replace('"second"', f'"{TASK}"'), 2, "one of this id is there already"),
        (FILE.replace('"other"', '"nowhere"'), 3, "no bundle here"),
        (FILE.replace("rounds = 3", "rounds = 0"), 2, "rounds: expected 1 to"),
        (FILE.replace("min_cohort = 1", "min_cohort = 3"), 2, "min_cohort: 3 is more than cohort = 2"),
        (FILE + "color = 1\n", 2, "selection.color: unknown key"),
        (FILE + "[gate]\nmargin = 0.1\n", 2, "gate: it needs a set in [task.evaluation]"),
        (
            FILE + '[evaluation]\nsets = {a = "a.jsonl"}\n[gate]\nsets = ["b"]\n',
            2,
            "gate: it names b, which needs a set in [task.evaluation]",
        ),
        (FILE + '[evaluation]\nsets = {a = "a.jsonl"}\n', 2, "it is the evaluation set a of task second"),
        ("not toml at all", 2, "not valid TOML"),
    ],
)
def test_a_task_file_that_is_no_good_is_one_line(
    run: Callable[..., Ran], ran: tuple[Bench, Path], text: str, code: int, line: str
) -> None:
    bench, config = ran
    (bench.folder / "second.toml").write_text(text)
    said = run("task", "create", bench.folder / "second.toml", "--config", config, "--wait", 0)
    assert line in said.line
    assert said.code == code
    assert bench.lifecycle.created() == ()


def test_a_task_is_created_once(run: Callable[..., Ran], ran: tuple[Bench, Path]) -> None:
    bench, config = ran
    command = ("task", "create", bench.folder / "second.toml", "--config", config, "--wait", 0)
    assert run(*command).code == 0
    assert "was created before" in run(*command).line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("pause", "nobody"), "there is no task nobody that has begun"),
        (("resume", TASK), "the task is open, only one that is paused can be told to resume"),
        (("rollback", TASK, 1), "version 1 is the newest"),
        (("rollback", TASK, 9), "there is no version 9; the newest is 1"),
        (("promote", TASK, 1), "version 1 is promoted already"),
        (("create", "none.toml"), "no such configuration file"),
    ],
)
def test_a_command_that_cannot_be_is_one_line_and_writes_nothing(
    run: Callable[..., Ran], ran: tuple[Bench, Path], arguments: tuple[object, ...], line: str
) -> None:
    said = run("task", *arguments, "--config", ran[1], "--wait", 0)
    assert said.code == 2
    assert line in said.line
    assert waiting(ran[0]) == []


def test_a_refusal_of_the_service_is_one_line(
    run: Callable[..., Ran], ran: tuple[Bench, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, config = ran
    ask = SqlLifecycle.ask

    def asked_too_late(self: SqlLifecycle, task: str, verb: str, **facts: object) -> int:
        number = ask(self, task, verb, **facts)  # type: ignore[arg-type]
        bench.command("stop")
        return number

    bench.lifecycle.ask(TASK, "stop", version=None, unix_s=0.0)
    monkeypatch.setattr(SqlLifecycle, "ask", asked_too_late)
    bench.lifecycle.ask = ask.__get__(bench.lifecycle)  # type: ignore[method-assign]
    said = run("task", "pause", TASK, "--config", config)
    assert said.code == 2
    assert "the task is stopped" in said.line


@pytest.mark.parametrize(
    ("task", "version", "line"),
    [("nobody", 0, "there is no task nobody"), (TASK, 9, "there is no version 9; the newest is 1")],
)
def test_a_model_that_cannot_be_exported_is_one_line(
    run: Callable[..., Ran], ran: tuple[Bench, Path], tmp_path: Path, task: str, version: int, line: str
) -> None:
    said = run("task", "export-model", task, version, "--config", ran[1], "--out", tmp_path / "out")
    assert said.code == 2
    assert line in said.line


@pytest.mark.parametrize("verb", ["create", "pause", "resume", "stop", "rollback", "promote", "export-model"])
def test_every_command_has_help(run: Callable[..., Ran], verb: str) -> None:
    said = run("task", verb, "--help")
    assert said.code == 0
    assert "--config" in said.out
