"""kill -9 of broker, aggregator and agents at random moments: nothing lost, nothing counted twice, the same bytes."""

from __future__ import annotations

import hashlib
import random
import time
from typing import TYPE_CHECKING

import pytest

from deploy.local import LocalFleet, Storm
from tests.deploy.test_fleet import run_to_end, show, spec, verify

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.supervised import FleetEvent

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]

N_KILLS = 14
ROUNDS = 6


def final_adapter(fleet: LocalFleet) -> str:
    shown = show(fleet)
    (digest,) = shown["versions"][-1]["state_blobs"].values()
    return str(digest)


def test_random_kills_lose_nothing_and_the_final_adapter_is_the_undisturbed_one(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path]
) -> None:
    calm = LocalFleet(spec(tmp_path / "calm", tiny_bundle, devices, rounds=ROUNDS))
    with calm:
        run_to_end(calm, last_version=ROUNDS, evaluated=False)
    stormy = LocalFleet(spec(tmp_path / "stormy", tiny_bundle, devices, rounds=ROUNDS))
    events: list[FleetEvent] = []
    with stormy:
        storm = Storm(stormy, random.Random(), every_s=(0.2, 1.2), n_kills=N_KILLS)
        end = time.monotonic() + 300
        while not any(event.name == "task-finished" for event in events):
            assert time.monotonic() < end, f"not finished after {storm.victims}: {events[-10:]}"
            events.extend(stormy.poll())
            storm.blow()
            time.sleep(0.02)
        restarts = sum(process.n_restarts for process in stormy.processes.values())
    assert len(storm.victims) >= 10, "the run was over too soon"
    assert restarts >= 10
    shown = show(stormy)
    assert [one["n_updates"] for one in shown["rounds"]] == [4] * ROUNDS
    assert verify(stormy).returncode == 0
    # Every update that a device was promised is in exactly one fold, and training is deterministic, so the storm must
    # leave the same bytes as the calm.
    receipted = [e.facts["update_id"] for e in events if e.name == "update-receipted"]
    assert len(receipted) == len(set(receipted))
    assert final_adapter(stormy) == final_adapter(calm)


def test_the_digest_of_a_version_is_of_its_bytes(tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path]) -> None:
    fleet = LocalFleet(spec(tmp_path, tiny_bundle, devices, rounds=1))
    with fleet:
        run_to_end(fleet, last_version=1, evaluated=False)
    digest = final_adapter(fleet)
    blobs = [path for path in (tmp_path / "fleet" / "aggregator").rglob("*") if path.is_file()]
    assert digest in {hashlib.sha256(path.read_bytes()).hexdigest() for path in blobs}
