"""A device that is well in every hop: a real broker, a real bundle, and a trainer that scores its examples."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from host.bundle_folder import open_bundle
from tests.edge_agent.doctor.patient import Patient
from tests.host.mosquitto import BINARY, MISSING

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(BINARY is None, reason=MISSING)


def test_a_device_that_is_well_exits_with_0_and_says_so_of_every_hop(tiny_bundle: Path, tmp_path: Path) -> None:
    with contextlib.closing(Patient(tmp_path, bundle=tiny_bundle)) as patient:
        patient.announce(open_bundle(tiny_bundle).id)
        command = [sys.executable, "-m", "edgefold", "agent", "doctor", "--config", str(patient.config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 0, found
    assert len(found) == 17
    assert found.pop("download")["state"] == "skipped"  # its bundle was copied by hand
    assert found.pop("privacy")["state"] == "skipped"  # no noisy training
    assert {one["state"] for one in found.values()} == {"ok"}
    assert "scored the device's own examples" in found["engine"]["what"]
