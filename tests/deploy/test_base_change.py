"""FLoRA on the real wire: real trainers on base weights that change with every version, and the fold proves itself."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploy.local import LocalFleet
from edge_agent.adapters.served_work import newest_served, read_work
from edge_agent.trainer.local_terms import n_work_values
from edge_agent.trainer.received import received
from host.base_change import changed_base
from host.bundle_folder import open_bundle
from protocol import codec
from protocol.plan import DeviceTerms
from tests.deploy.test_fleet import run_to_end, show, spec, verify

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]


def test_a_fleet_learns_in_its_base_weights(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path], test_set: Path
) -> None:
    two = dict(list(devices.items())[:2])
    settings = {"strategy": "flora", "strategy_options": {"ranks": {"device-0": 2}}, "broadcast": "float32"}
    plan = spec(tmp_path, tiny_bundle, two, sets={"all": test_set}, rounds=2, task_settings=settings)
    with LocalFleet(plan) as fleet:
        events = run_to_end(fleet, last_version=2, evaluated=True)
    accuracy = {e.facts["version"]: e.facts["pooled_accuracy"] for e in events if e.name == "version-evaluated"}
    assert accuracy[2] > accuracy[0] + 0.1
    assert [event.facts["n_updates"] for event in events if event.name == "version-folded"] == [2, 2]
    assert verify(fleet).returncode == 0
    assert show(fleet)["strategy"].startswith("flora#")
    # What a device predicts with now is the newest version that it was given, base and all, as the service keeps it.
    bundle, work = open_bundle(tiny_bundle), read_work(state_of(tmp_path / "fleet" / "devices" / "device-0", plan.task))
    assert (work.version, work.plan.terms) == (1, DeviceTerms(lora_rank=2, base_change=True))
    vector = codec.decode(work.adapter, n_values=n_work_values(work.plan.terms, bundle.layout))
    change = vector[bundle.layout.n_params :]
    assert np.abs(change).max() > 0
    kept = {path.name for path in (tmp_path / "fleet" / "aggregator").rglob("*") if path.is_file()}
    assert hashlib.sha256(change.tobytes()).hexdigest() in kept
    own, given = changed_base(bundle, np.zeros_like(change)), received(bundle, work.adapter, work.plan.terms).base
    assert given is not None
    assert all(not np.array_equal(given.train[name], own.train[name]) for name in own.train)


def state_of(device: Path, task: str) -> Path:
    path = newest_served(device / "state", task)
    assert path is not None
    return path
