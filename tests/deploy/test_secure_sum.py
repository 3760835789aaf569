"""Secure sums by real processes over a real broker: exact, recovered, restarted, and searched for what must not be."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from deploy.local import LocalFleet
from deploy.sum_comparison import compare_sums, kept_deltas
from protocol import cbor, codec
from protocol.jobs import UPDATE_FILE
from protocol.plan import Codec
from protocol.secure_sum import quantise
from protocol.secure_sum.quantise import Quantiser
from tests.deploy.test_fleet import PLAN, run_to_end, show, spec, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.supervised import FleetEvent

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]

STEPS = ("adverts", "shares", "inputs", "consents", "unmasking")
SUM = {"clip": 0.5, "weight_cap": 128, "input_bits": 16, "dropout_fraction": 0.25, "step_deadline_s": 60.0}
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")


def sum_spec(tmp_path: Path, bundle: Path, devices: dict[str, Path], *, step_s: float = 60.0, **changes: Any) -> Any:
    facts: dict[str, Any] = {
        "privacy": {"level": "secure-sum", "secure_sum": {**SUM, "step_deadline_s": step_s}},
        "device_privacy": {"require": "secure-sum", "keep_deltas": True},
        "min_cohort": 3,
    }
    return spec(tmp_path, bundle, devices, **{**facts, **changes})


def assert_exact(fleet: LocalFleet, n_devices: list[int]) -> None:
    checks = compare_sums(fleet)
    assert [len(one.devices) for one in checks] == n_devices
    assert all(one.is_good for one in checks), checks
    assert verify(fleet).returncode == 0


@pytest.mark.skipif(MOSQUITTO is None, reason="no Mosquitto")
def test_an_enrolled_fleet_sums_over_mutual_tls_and_its_devices_believe_certificates(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path], test_set: Path
) -> None:
    fleet = LocalFleet(sum_spec(tmp_path, tiny_bundle, devices, rounds=2, secure=True, sets={"all": test_set}))
    with fleet:
        events = run_to_end(fleet, last_version=2, evaluated=True)
    assert_exact(fleet, [4, 4])
    accuracy = {e.facts["version"]: e.facts["pooled_accuracy"] for e in events if e.name == "version-evaluated"}
    assert accuracy[2] > accuracy[0] + 0.1
    assert show(fleet)["rounds"][0]["loss"] is None  # no device's own figures are sent


def test_kills_of_aggregator_and_devices_in_every_step_change_no_byte(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path]
) -> None:
    fleet = LocalFleet(sum_spec(tmp_path, tiny_bundle, devices, rounds=2))
    killed: list[tuple[str, str]] = []
    with fleet:
        for event in fleet.events(until="task-finished", deadline_s=400):
            if event.name != "sum-step-taken":
                continue
            victim = "aggregator" if event.facts["round"] == 1 else event.source
            if victim == "aggregator" and event.source != "aggregator":
                continue
            if victim.startswith("device") and (event.facts["round"] == 1 or len({v for v, _ in killed}) > 8):
                continue
            if (victim.split("-")[0], event.facts["step"]) not in [(v.split("-")[0], s) for v, s in killed]:
                killed.append((victim, event.facts["step"]))
                fleet.kill(victim)
    assert {step for victim, step in killed if victim == "aggregator"} == set(STEPS)
    assert {step for victim, step in killed if victim.startswith("device")} == set(STEPS)
    assert_exact(fleet, [4, 4])


@pytest.mark.parametrize("step", ["shares", "inputs", "consents", "unmasking"])
def test_a_device_that_dies_for_good_in_a_step_is_recovered(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path], step: str
) -> None:
    fleet = LocalFleet(sum_spec(tmp_path, tiny_bundle, devices, rounds=1, step_s=12.0))
    before = STEPS[STEPS.index(step) - 1]
    with fleet:
        for event in fleet.events(until="version-folded", deadline_s=200):
            is_it = event.name == "sum-step-taken" and event.facts["step"] == before
            if is_it and event.source == "aggregator" and event.facts["device"] == "device-2":
                end_for_good(fleet, "device-2")
        folded = event.facts
    assert folded["n_updates"] == (3 if step in ("shares", "inputs") else 4)
    assert_exact(fleet, [folded["n_updates"]])


def end_for_good(fleet: LocalFleet, name: str) -> None:
    fleet.kill(name)
    fleet.processes.pop(name)


def test_below_the_threshold_the_round_ends_and_the_secrets_of_the_others_go(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path]
) -> None:
    fleet = LocalFleet(sum_spec(tmp_path, tiny_bundle, devices, rounds=1, step_s=6.0))
    with fleet:
        for event in fleet.events(until="round-abandoned", deadline_s=200):
            is_it = event.name == "sum-step-closed" and event.facts["step"] == "adverts"
            if is_it:
                for name in ("device-0", "device-1"):
                    end_for_good(fleet, name)
        time.sleep(3)
        ended = int(event.facts["round"])
        left = [rounds_of_secrets(tmp_path / "fleet/devices" / name) for name in ("device-2", "device-3")]
    assert show(fleet)["versions"][-1]["version"] == 0
    # The next round may have begun: then there are its secrets, and its alone.
    assert all(round_ > ended for rounds in left for round_ in rounds)


def rounds_of_secrets(device: Path) -> list[int]:
    """Return the rounds of which a device still has the state of a step."""
    files = [path.read_bytes() for path in (device / "state/sum").glob("step.cbor")]
    return [cbor.loads(data, max_bytes=1 << 24)["round"] for data in files]


# -- the search ------------------------------------------------------------------------------------------------------


def memory_of(pid: int) -> Iterator[bytes]:
    """Yield every readable and writable range of a process's memory, as a core dump would have it."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            low, high = (int(one, 16) for one in span.split("-"))
            with contextlib.suppress(OSError, ValueError):
                memory.seek(low)
                yield memory.read(high - low)


def files_of(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes()


def windows(data: bytes, size: int = 32, most: int = 8) -> set[bytes]:
    """Return at most so many pieces, from all over ``data``, that could not be elsewhere by chance."""
    pieces = [data[at : at + size] for at in range(0, len(data) - size, size)]
    telling = [piece for piece in pieces if len(set(piece)) > size // 2]
    return set(telling[:: max(1, len(telling) // most)])


def forms(vector: np.ndarray[Any, np.dtype[np.float32]], weight: int) -> set[bytes]:
    """Return pieces of every form in which one device's vector could lie about."""
    quantiser = Quantiser(n_params=vector.size, clip=SUM["clip"], weight_cap=128, input_bits=16, max_cohort=4)
    levels = quantiser.encode(vector, weight)
    return (
        windows(vector.tobytes())
        | windows(vector.astype(np.float64).tobytes())
        | windows(levels.tobytes())
        | windows(quantise.pack(levels, quantiser.bits))
    )


def n_found(pieces: set[bytes], places: Iterator[bytes]) -> int:
    return sum(piece in place for place in places for piece in pieces)


def look_everywhere(fleet: LocalFleet, pieces: set[bytes]) -> dict[str, int]:
    pid = fleet.processes["aggregator"].pid
    assert pid is not None
    folder = fleet.spec.folder
    return {
        "memory": n_found(pieces, memory_of(pid)),
        "files": n_found(pieces, files_of(folder / "aggregator")),
        "logs": n_found(pieces, files_of(folder / "logs")),
    }


def wait_for(fleet: LocalFleet, name: str, n: int = 1) -> list[FleetEvent]:
    events = []
    for event in fleet.events(deadline_s=200):
        events.append(event)
        if sum(one.name == name for one in events) >= n:
            return events
    pytest.fail(f"no {n} of {name}")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc/PID/mem")
def test_no_devices_vector_is_in_the_aggregators_memory_database_blobs_or_logs(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path]
) -> None:
    fleet = LocalFleet(sum_spec(tmp_path, tiny_bundle, devices, rounds=1, keep_updates=True))
    found: list[dict[str, int]] = []
    with fleet:
        for event in fleet.events(until="task-finished", deadline_s=400):
            if event.name in ("version-folded", "task-finished") or event.facts.get("step") == "inputs":
                if event.name == "sum-step-taken" and event.facts.get("wall_s"):
                    continue  # a device's own word for it
                pieces = set().union(*(forms(one.vector, one.weight) for one in kept_deltas(fleet)))
                assert len(pieces) > 4 * 20
                found.append(look_everywhere(fleet, pieces))
    assert len(found) >= 4
    assert {sum(one.values()) for one in found} == {0}, found
    assert_exact(fleet, [4])


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc/PID/mem")
def test_the_same_search_finds_single_vectors_at_level_sealed(
    tmp_path: Path, tiny_bundle: Path, devices: dict[str, Path]
) -> None:
    plan = dataclasses.replace(PLAN, codec=Codec(name="float32"))
    n_in_memory = []
    # A vector was in memory while it was checked and folded; what the heap has kept of it a moment later is chance.
    for folder in (tmp_path / f"attempt-{n}" for n in range(4)):
        fleet = LocalFleet(spec(folder, tiny_bundle, devices, rounds=1, plan=plan))
        with fleet:
            wait_for(fleet, "version-folded")
            scratches = [fleet.spec.folder / f"devices/{name}/state/scratch" for name in devices]
            payloads = [(scratch / UPDATE_FILE).read_bytes() for scratch in scratches]
            vectors = [codec.decode(one, n_values=fleet_params(fleet)) for one in payloads]
            pieces = set().union(*(windows(one.tobytes(), most=64) for one in vectors))
            found = look_everywhere(fleet, pieces)
        assert found["logs"] == 0
        n_in_memory.append(found["memory"])
        if n_in_memory[-1]:
            return
    pytest.fail(f"the search is blind: it found {n_in_memory} pieces in the memory of four aggregators")


def fleet_params(fleet: LocalFleet) -> int:
    from host.bundle_folder import open_bundle

    return open_bundle(fleet.spec.bundle).manifest.adapter.n_params
