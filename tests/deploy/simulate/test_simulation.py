"""Virtual devices against a real broker and aggregator, with and without kills; and an audit that can fail."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deploy.simulate.audit import Audit, audit
from deploy.simulate.journal import Entry, Journal, entries
from deploy.simulate.kill_matrix import KillPlan, run_kill_matrix
from deploy.simulate.local_service import plan_of
from deploy.simulate.service import read_service

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.serial, pytest.mark.timeout(900)]

PROFILE = """
[[group]]
name = "fast"
share = 3
train_s = 0.1
[[group]]
name = "slow"
train_s = 0.4
spread = 0.5
available = 0.8
drop_out = 0.2
"""
SEED = 3
has_mosquitto = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") is not None


def simulate(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    profile = folder / "speeds.toml"
    profile.write_text(PROFILE)
    options = ["--rounds", "3", "--params", "2000", "--seed", str(SEED), "--folder", str(folder / "run"), *more]
    command = [sys.executable, "-m", "edgefold", "simulate", "--profile", str(profile), "--json", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)


def test_a_fleet_of_virtual_devices_runs_rounds_and_the_audit_finds_each_kind_of_wrong(tmp_path: Path) -> None:
    done = simulate(tmp_path, "--devices", "16", "--connections", "3")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["n_versions"], facts["connections"], facts["is_good"]) == (3, 3, True)
    assert facts["n_folded"] >= 3 * 10
    assert facts["n_unreadable"] == 0

    service = read_service(tmp_path / "run" / "fleet" / "aggregator" / "aggregator.toml")
    story = list(entries(tmp_path / "run" / "journal.jsonl"))
    first = next(one for one in story if one.act == "accepted")

    def audited(changed: list[Entry], *, seed: int = SEED) -> Audit:
        with Journal(tmp_path / "changed.jsonl") as journal:
            for entry in changed:
                journal.write(entry)
        return audit(service, tmp_path / "changed.jsonl", seed=seed, plan=plan_of())

    assert audited(story).is_good
    lost = dataclasses.replace(first, update_id="00" * 16)
    assert audited([*story, lost]).n_lost == 1
    unsent = audited([one for one in story if one.update_id != first.update_id])
    assert (unsent.n_unsent, unsent.is_good) == (1, False)
    assert audited(story, seed=SEED + 1).n_wrong_bytes > 0


@pytest.mark.skipif(not has_mosquitto, reason="no Mosquitto")
@pytest.mark.parametrize("is_async", [False, True])
def test_kills_of_broker_and_aggregator_lose_nothing_and_count_nothing_twice(tmp_path: Path, *, is_async: bool) -> None:
    plan = KillPlan(folder=tmp_path, kills=3, seed=random.randrange(2**31), devices=6, n_params=2000, is_async=is_async)
    found = run_kill_matrix(plan)
    assert found["is_good"], found
    assert sum(found["kills"].values()) == 3
    assert found["n_accepted"] == found["n_folded"] >= 6
    assert found["n_versions"] >= 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--devices", "0"], "devices"),
        (["--devices", "2", "--config", "nowhere.toml"], "nowhere.toml: no such configuration file"),
        (["--devices", "2", "--profile", "nowhere.toml"], "nowhere.toml: no such configuration file"),
    ],
)
def test_a_mistake_is_one_line(options: list[str], says: str) -> None:
    command = [sys.executable, "-m", "edgefold", "simulate", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
