"""A device's files on one screen, and the same as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.adapters.conduct_record import ConductRecord, write_conduct
from edge_agent.adapters.device_folder import DeviceFolder
from edge_agent.core.session import Job, SessionState
from edge_agent.status import read_status
from protocol.errors import ConfigError
from protocol.messages import Receipt
from tests.attacks.hostile_bundles import make_bundle
from tests.edge_agent.test_cli import GOOD

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "agent.toml").write_text(GOOD.format(service_key="0" * 64, url="mqtt://127.0.0.1"))
    return tmp_path


def shown(here: Path, *options: str, command: str = "status") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "edgefold", "agent", command, "--config", str(here / "agent.toml"), *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def test_a_device_that_never_ran(here: Path) -> None:
    done = shown(here)
    assert done.returncode == 0, done.stderr
    for words in ("the agent is not running", "home/pi", "none yet", "bundle missing"):
        assert words in done.stdout
    assert len(done.stdout.splitlines()) == 12
    assert not (here / "state").exists()  # it only reads


def test_a_device_in_a_round(here: Path) -> None:
    bundle_id = make_bundle(here / "bundle")
    folder = DeviceFolder(here / "state")
    job = Job(task="t", round=4, bundle_id=bundle_id)
    folder.save_state(SessionState(phase="training", job=job, done={"t": 3}))
    folder.save_receipt(Receipt(task="t", round=3, update_id=bytes(16), status="refused", reason="late"))
    try:
        found: dict[str, Any] = json.loads(shown(here, "--json").stdout)
    finally:
        folder.close()
    assert (found["is_running"], found["phase"], found["task"], found["round"]) == (True, "training", "t", 4)
    assert (found["why"], found["done"], found["bundles"]) == ("it is training", {"t": 3}, {"bundle": bundle_id})
    assert (found["last_receipt"]["status"], found["last_receipt"]["reason"]) == ("refused", "late")
    assert not read_status(here / "agent.toml").is_running


def test_a_damaged_state_is_a_line_and_no_error(here: Path) -> None:
    (here / "state").mkdir()
    (here / "state" / "state.cbor").write_bytes(b"\xff")
    assert "damaged" in read_status(here / "agent.toml").why
    with pytest.raises(ConfigError, match="no such configuration"):
        read_status(here / "none.toml")


def test_the_doctors_exit_code_says_whether_anything_failed(here: Path) -> None:
    done = shown(here, "--json", command="doctor")
    assert done.returncode == 1, done.stderr
    states = {one["name"]: one["state"] for one in json.loads(done.stdout)}
    assert (states["config"], states["bundles"], states["data"]) == ("ok", "failed", "failed")


def test_the_rule_that_holds_it_back_is_said(here: Path) -> None:
    folder = DeviceFolder(here / "state")
    write_conduct(here / "state", ConductRecord(holds=("it is 80 °C; it trains up to 70",)))
    try:
        assert read_status(here / "agent.toml").why == (
            "a rule of its owner holds it back: it is 80 °C; it trains up to 70"
        )
    finally:
        folder.close()


def test_a_bundle_that_is_being_fetched_and_one_that_was_are_shown(here: Path) -> None:
    made = make_bundle(here / "made")
    (here / "bundles").mkdir()
    (here / "made").rename(here / "bundles" / made)
    (here / "bundles" / f".partial-{'0' * 64}").mkdir()
    (here / "bundles" / f".partial-{'0' * 64}" / "weights.bin").write_bytes(bytes(1_500_000))
    found = read_status(here / "agent.toml")
    assert found.bundles == {"bundle": None, f"bundles/{made}": made}
    assert found.fetching_bytes == {"0" * 64: 1_500_000}
    assert f"bundles/{made[:12]}, 000000000000 is being fetched: 1.5 MB" in shown(here).stdout
