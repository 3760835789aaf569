"""The command and the process, for real: one loads the model itself, the other asks what listens."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.adapters.device_folder import DeviceFolder
from edge_agent.beside import beside_rounds
from edge_agent.config import AgentConfig
from edge_agent.local.endpoint import ask, read_port
from host.bundle_folder import open_bundle
from host.config import load
from tests.edge_agent.local.test_serving import work
from tests.edge_agent.test_cli import GOOD
from tests.edge_agent.trainer.bag_of_words import knowing, write_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.ports import Beside


@pytest.fixture
def here(tmp_path: Path) -> Path:
    text = GOOD.format(service_key="0" * 64, url="mqtt://127.0.0.1")
    (tmp_path / "agent.toml").write_text(text + '[predict]\nport = 0\nlabels = ["no", "yes"]\n')
    bundle = write_bundle(tmp_path / "bundle")
    folder = DeviceFolder(tmp_path / "state")
    folder.save_work(work(bundle, knowing(good=2.0, bad=-2.0), version=7))
    folder.close()
    return tmp_path


def predicted(here: Path, what: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "edgefold", "agent", "predict", what, "--config", str(here / "agent.toml"), *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_loads_the_model_where_nothing_listens(here: Path) -> None:
    done = predicted(here, "good film")
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("yes")
    assert last.startswith("by version 7 of task t; p50 ")
    (here / "x.jsonl").write_text('{"text": "good", "label": 1}\n{"text": "bad"}\n')
    found: dict[str, Any] = json.loads(predicted(here, str(here / "x.jsonl"), "--json").stdout)
    assert [one["name"] for one in found["predictions"]] == ["yes", "no"]
    assert (found["model"]["version"], found["latency"]["n"]) == (7, 2)


def test_before_any_work_the_command_says_so(here: Path) -> None:
    (here / "state" / "served-t.cbor").unlink()
    done = predicted(here, "good film")
    assert done.stdout.splitlines()[-1].startswith("by the bundle's own adapter; p50 "), done.stderr


@pytest.mark.parametrize(("what", "words"), [("none.jsonl", "no such data file"), ("none.json", "no such file")])
def test_a_missing_file_is_one_line(here: Path, what: str, words: str) -> None:
    done = predicted(here, str(here / what))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert words in done.stderr


def started(here: Path) -> tuple[Beside, int]:
    config = load(AgentConfig, here / "agent.toml")
    beside = beside_rounds(here, config, {open_bundle(here / "bundle").id: here / "bundle"})
    assert beside is not None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        beside.turn(is_idle=True)
        port = read_port(here / "state")
        if port is not None and ask(port, "GET", "/health") is not None:
            return beside, port
        time.sleep(0.1)
    raise AssertionError("the local process did not come up")


def test_the_local_process_answers_counts_and_comes_again_when_it_was_killed(here: Path) -> None:
    beside, port = started(here)
    try:
        health = ask(port, "GET", "/health")
        assert health is not None
        assert (health["model"], health["answers"]) == (None, 0)  # loaded when first asked
        said = ask(port, "POST", "/predict", {"inputs": [{"text": "bad"}, {"text": "good"}]})
        assert said is not None
        assert [one["name"] for one in said["predictions"]] == ["no", "yes"]
        assert json.loads(predicted(here, "good", "--json").stdout)["model"]["version"] == 7
        health = ask(port, "GET", "/health")
        assert health is not None
        assert (health["answers"], health["latency"]["n"], health["model"]["version"]) == (2, 2, 7)
        (here / "state" / "local" / "endpoint.json").unlink()
        beside._process._process.kill()  # type: ignore[attr-defined]
    finally:
        beside.close()
    beside, port = started(here)
    beside.close()
    assert ask(port, "GET", "/health") is None  # it went with its agent
