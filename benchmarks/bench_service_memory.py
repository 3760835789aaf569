"""Does the aggregator's memory grow with rounds? Resident bytes over rounds of virtual devices on the real wire.

The slope is that of a straight line through the second half of the rounds (the first half fills caches). Nothing is
timed, so it needs no quiet machine. ``--rounds 60 --devices 20`` is the smoke run; the long one is 1,000 and 100.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.record import Benchmark
from deploy.simulate.identities import make_identities, register
from deploy.simulate.journal import Journal
from deploy.simulate.local_service import LocalSpec, local_fleet
from deploy.simulate.profile import STEADY
from deploy.simulate.run import Simulation
from deploy.simulate.service import read_service
from host.memory import resident_bytes

MB: Final = 2**20
DEADLINE_S: Final = 6 * 3600.0


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--params", type=int, default=75_268)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgefold-service-memory-") as folder:
        points = _measure(Path(folder), options.rounds, options.devices, options.params)
    rounds, resident = np.array(points, np.float64).T  # [n], [n]
    late = rounds >= rounds.max() / 2
    slope = float(np.polyfit(rounds[late], resident[late], 1)[0])
    bench = Benchmark("service-memory", "Does the aggregator's memory grow with rounds?")
    bench.summary = {
        "rounds": float(rounds.max()),
        "devices": float(options.devices),
        "resident_last_mb": float(resident[-1]),
        "resident_peak_mb": float(resident.max()),
        "slope_mb_per_100_rounds": 100 * slope,
    }
    bench.goals = {"slope_mb_per_100_rounds": (-np.inf, 1.0)}
    bench.details["points"] = points
    bench.finish(lambda figure: _draw(figure, rounds, resident))


def _measure(folder: Path, rounds: int, devices: int, n_params: int) -> list[tuple[int, float]]:
    """Return the resident megabytes of the aggregator after each round."""
    spec = LocalSpec(
        folder=folder,
        n_devices=devices,
        profile=STEADY,
        n_params=n_params,
        rounds=rounds,
        seed=0,
        keep_updates=False,
    )
    fleet = local_fleet(spec)
    service = read_service(fleet.aggregator_config)
    identities = make_identities(folder / "devices.secret", devices)
    register(service.registry, identities)
    points: list[tuple[int, float]] = []
    with fleet, Journal(folder / "journal.jsonl") as journal:
        simulation = Simulation(service, identities, journal, profile=STEADY, seed=0)

        def watch() -> None:
            for event in fleet.poll():
                pid = fleet.processes["aggregator"].pid
                if event.name == "version-folded" and pid is not None:
                    points.append((len(points) + 1, (resident_bytes(pid) or 0) / MB))

        if not simulation.run(until=lambda: len(points) >= rounds, deadline_s=DEADLINE_S, each=watch):
            raise TimeoutError(f"{len(points)} of {rounds} rounds")
        simulation.close()
    return points


def _draw(figure: Any, rounds: Any, resident: Any) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    axes.plot(rounds, resident)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rounds")
    axes.set_ylabel("aggregator, resident MB")


if __name__ == "__main__":
    main()
