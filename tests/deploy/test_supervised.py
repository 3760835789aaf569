from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from deploy.local import FleetSpec, LocalFleet
from deploy.supervised import Supervised
from protocol.errors import ConfigError, EngineError
from protocol.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def wait_until(condition: Callable[[], bool], deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_wrong_setting_is_raised_with_the_programs_own_line(tmp_path: Path) -> None:
    process = Supervised("broker", ["broker", "--config", str(tmp_path / "none.toml")], tmp_path / "log")
    process.start()
    wait_until(lambda: process.pid is None)
    with pytest.raises(ConfigError, match="no such configuration file"):
        process.keep_running()


def test_a_fleet_that_cannot_start_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text('{"text": "x", "label": 0}\n')
    fleet = LocalFleet(
        FleetSpec(folder=tmp_path / "fleet", bundle=tmp_path, devices={"d": data}, plan=Plan(), rounds=1)
    )
    with pytest.raises((ConfigError, EngineError), match="no bundle here"), fleet:
        pytest.fail("a fleet without a bundle started")
    assert all(process.pid is None for process in fleet.processes.values())


def test_only_whole_lines_that_are_events_are_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = Supervised("x", [], log)
    assert list(process.new_events()) == []
    log.write_bytes(b'{"event": "one", "n": 1}\nTraceback: no JSON\n[1]\n{"event": "tw')
    assert [(one.name, one.facts) for one in process.new_events()] == [("one", {"n": 1})]
    with log.open("ab") as file:
        file.write(b'o"}\n')
    assert [one.name for one in process.new_events()] == ["two"]
    assert list(process.new_events()) == []
