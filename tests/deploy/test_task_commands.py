"""A fleet of real processes that is steered while it runs: two tasks and bundles at once, a lost device, a pause."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from deploy.local import FleetSpec, LocalFleet
from deploy.toml_text import toml_text
from protocol.fields import plain
from protocol.plan import Codec, Optimizer, Plan

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]

PLAN = Plan(epochs=2, batch_size=16, max_tokens=32, optimizer=Optimizer(learning_rate=5e-3), codec=Codec())


def edgefold(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgefold", *map(str, arguments), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="session")
def other_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with another adapter."""
    out = tmp_path_factory.mktemp("other") / "bundle"
    model = tiny_bundle.parent / "tiny-model"
    edgefold("export", model, "--labels", 2, "--adapter", "head", "--max-tokens", 32, "--out", out)
    return out


def wait_for(fleet: LocalFleet, *names: tuple[str, str], deadline_s: float = 200.0) -> None:
    """Wait until each (event, task) has happened."""
    missing, end_s = set(names), time.monotonic() + deadline_s
    while missing and time.monotonic() < end_s:
        missing -= {(one.name, str(one.facts.get("task"))) for one in fleet.poll()}
        time.sleep(0.1)
    assert not missing


def test_two_tasks_and_bundles_run_side_by_side_on_devices_that_have_both(
    tmp_path: Path, tiny_bundle: Path, other_bundle: Path, devices: dict[str, Path], test_set: Path
) -> None:
    spec = FleetSpec(
        folder=tmp_path / "fleet",
        bundle=tiny_bundle,
        more_bundles=(other_bundle,),
        devices=devices,
        plan=PLAN,
        rounds=3,
        keep_updates=True,
    )
    settings = {
        "id": "heads",
        "bundle": str(other_bundle),
        "rounds": 2,
        "cohort": 4,
        "min_cohort": 2,
        "plan": plain(PLAN),
        "evaluation": {"sets": {"all": str(test_set)}},
        "gate": {"margin": 1.0},
    }
    (tmp_path / "heads.toml").write_text(toml_text(settings))
    with LocalFleet(spec) as fleet:
        config = fleet.aggregator_config
        created = edgefold("task", "create", tmp_path / "heads.toml", "--config", config, "--wait", 30)
        assert created["status"] == "done"
        wait_for(fleet, ("task-finished", "sentiment"), ("task-finished", "heads"), ("version-promoted", "heads"))
        listed = {one["task"]: one for one in edgefold("task", "list", "--config", config)["tasks"]}
        assert (listed["sentiment"]["version"], listed["heads"]["version"]) == (3, 2)
        assert listed["sentiment"]["bundle_id"] != listed["heads"]["bundle_id"]
        for task in listed:
            assert edgefold("task", "verify", task, "--config", config)["ok"]
        for task in listed:
            folded = edgefold("task", "show", task, "--config", config)["rounds"]
            assert [one["n_updates"] for one in folded] == [4] * len(folded)  # every device worked for both
        arguments = ("--config", config, "--out", tmp_path / "merged", "--model", tiny_bundle.parent / "tiny-model")
        merged = edgefold("task", "export-model", "sentiment", 3, *arguments)
        assert max(merged["onnx_error"], merged["folder_error"], merged["base_error"]) < 1e-4
        assert (tmp_path / "merged" / "huggingface" / "model.safetensors").is_file()
        rolled = edgefold("task", "rollback", "heads", 0, "--config", config, "--wait", 30)
        assert rolled["status"] == "done"
        assert edgefold("task", "list", "--config", config)["tasks"][0]["version"] == 3


def test_a_killed_device_does_not_stall_a_round_and_a_pause_ends_it(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path]
) -> None:
    selection = {"straggler_factor": 2.0, "straggler_least_s": 3.0}
    spec = FleetSpec(
        folder=tmp_path / "fleet",
        bundle=tiny_bundle,
        devices=devices,
        plan=PLAN,
        rounds=50,
        min_cohort=2,
        task_settings={"selection": selection},
    )
    with LocalFleet(spec) as fleet:
        wait_for(fleet, ("version-folded", "sentiment"))
        lost = fleet.processes.pop("device-0")  # and is not started again
        lost.stop()
        wait_for(fleet, ("round-closing", "sentiment"))
        config = fleet.aggregator_config
        for _ in range(2):
            wait_for(fleet, ("version-folded", "sentiment"))  # long before the deadline of 600 s
        assert edgefold("task", "pause", "sentiment", "--config", config, "--wait", 30)["status"] == "done"
        end_s = time.monotonic() + 60
        while (shown := edgefold("task", "show", "sentiment", "--config", config))["round_state"] == "open":
            assert time.monotonic() < end_s
            fleet.poll()
        assert shown["state"] == "paused"
        assert min(one["n_updates"] for one in shown["rounds"] if one["state"] == "folded") < 4
        assert edgefold("task", "stop", "sentiment", "--config", config, "--wait", 30)["status"] == "done"
    shutil.rmtree(tmp_path / "fleet")
