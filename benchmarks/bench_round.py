"""What does a full-size round cost: time, bytes, memory?

Four devices with 2,000 examples each on this machine's cores, real processes, real broker; the job that Flower was
measured on. A round's time is from its opening to the folded version; what is not training is that less the longest
time that a device spent in training steps.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.record import FLOWER, Benchmark
from deploy.demo import DOMAINS, PLAN, export_bundle, prepare_data
from deploy.demo_view import FleetRecord, watch
from deploy.local import FleetSpec, LocalFleet
from host.memory import resident_bytes

ROUNDS: Final = 5
KB: Final = 1000
MB: Final = 2**20
IDLE_S: Final = 10.0


def main() -> None:
    """Measure and report."""
    bundle = export_bundle(Path("out/bench/bundle"))
    splits = prepare_data(2000, 500)
    spec = FleetSpec(
        folder=Path("out/bench/round-fleet"),
        bundle=bundle.folder,
        devices={f"device-{name}": splits.train[name] for name in DOMAINS},
        sets=splits.test,
        plan=PLAN,
        rounds=ROUNDS,
    )
    bench = Benchmark("round", "What does a full-size round cost beside Flower?", peers=[FLOWER])
    with LocalFleet(spec) as fleet:
        record = watch(fleet, Console(), n_params=bundle.manifest.adapter.n_params)
        idle = _idle(fleet)
    _summarise(bench, record, idle)
    bench.finish(lambda figure: _draw(figure, record))


def _idle(fleet: LocalFleet) -> dict[str, float]:
    """Return what an agent that waits for the next task costs, after ``IDLE_S`` of waiting."""
    pids = [pid for name in fleet.spec.devices if (pid := fleet.processes[name].pid) is not None]
    before = [_cpu_s(pid) for pid in pids]
    time.sleep(IDLE_S)
    used_s = max(_cpu_s(pid) - start for pid, start in zip(pids, before, strict=True))
    return {
        "agent_idle_mb": max(resident_bytes(pid) or 0 for pid in pids) / MB,
        "agent_idle_core_fraction": used_s / IDLE_S,
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks_per_s = int(subprocess.check_output(["/usr/bin/getconf", "CLK_TCK"]))
    return (int(fields[11]) + int(fields[12])) / ticks_per_s


def _summarise(bench: Benchmark, record: FleetRecord, idle: dict[str, float]) -> None:
    rounds = [one for one in record.rounds.values() if one.seconds is not None]
    n_devices = max(one.n_updates for one in rounds)
    seconds = statistics.median(one.seconds or 0 for one in rounds)
    bench.summary |= {
        "round_s": seconds,
        "round_ratio_to_flower": seconds / FLOWER.figures["round_s"],
        "not_training_s": statistics.median((one.seconds or 0) - one.train_s_max for one in rounds),
        "sent_by_device_kb": max(one.bytes_up for one in rounds) / n_devices / KB,
        "received_by_device_kb": max(one.bytes_down for one in rounds) / n_devices / KB,
        **idle,
        "agent_most_mb": record.agent_peak_bytes / MB,
        "trainer_peak_mb": record.trainer_peak_bytes / MB,
        "aggregator_most_mb": record.aggregator_peak_bytes / MB,
        "pooled_accuracy_fraction": record.evaluations[record.final_version]["pooled_accuracy"],
    }
    bench.goals |= {
        "round_ratio_to_flower": (0, 0.5),
        "not_training_s": (0, 3),
        "sent_by_device_kb": (0, 90),
        "received_by_device_kb": (0, 160),
        "agent_idle_mb": (0, 45),
        "trainer_peak_mb": (0, 300),
    }
    bench.details["rounds"] = [
        {"round": one.round, "seconds": one.seconds, "train_s_max": one.train_s_max, "accuracy": one.pooled_accuracy}
        for one in rounds
    ]


def _draw(figure: Any, record: FleetRecord) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    rounds = [one for one in record.rounds.values() if one.seconds is not None]
    names = [f"round {one.round}" for one in rounds] + ["Flower 1.41, median"]
    training = [one.train_s_max for one in rounds] + [FLOWER.figures["round_s"] - FLOWER.figures["not_training_s"]]
    rest = [(one.seconds or 0) - one.train_s_max for one in rounds] + [FLOWER.figures["not_training_s"]]
    axes = figure.add_subplot()
    axes.barh(names, training, color="#2a6f97", label="training")
    axes.barh(names, rest, left=training, color="#e0a458", label="not training")
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(frameon=False)


if __name__ == "__main__":
    sys.exit(main())
