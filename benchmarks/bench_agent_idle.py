"""What does an agent cost that has nothing to do? Resident memory and processor time of a connected, idle device.

The agent is the real process on a real broker, with a bundle and no task. A moment is taken each second: the resident
set of the agent and its children, and in the end the share of one core over the whole time. Beside it stand the figures
that AWS publishes for its own agents, whose work is another: they update software and do not learn.
``--seconds 600`` is the measurement, ``--seconds 20`` the smoke run; the machine must be quiet.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.record import Benchmark
from deploy.simulate.random_bundle import write_random_bundle
from host.memory import resident_bytes
from protocol.errors import ConfigError
from protocol.signing import SigningKey

MB: Final = 2**20
START_S: Final = 30.0
SETTLE_S: Final = 5.0
N_PARAMS: Final = 75_268  # the demo's adapter
# What AWS publishes of IoT Greengrass: 96 MB of memory for the classic nucleus, less than 5 MB for nucleus lite.
GREENGRASS_MB: Final = {"Greengrass nucleus": 96.0, "Greengrass nucleus lite": 5.0}
_TICKS_S: Final = 1 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("EDGEFOLD_IDLE_S", "600")))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgefold-idle-") as folder:
        moments, cpu_fraction = _measure(Path(folder), options.seconds)
    seconds, resident = np.array(moments, np.float64).T  # [n], [n]
    bench = Benchmark("agent-idle", "What does an agent cost that has nothing to do?")
    bench.summary = {
        "seconds": float(seconds.max()),
        "resident_mb": float(resident.max()),
        "cpu_percent": 100 * cpu_fraction,
        **{f"{name.lower().replace(' ', '_')}_mb": value for name, value in GREENGRASS_MB.items()},
    }
    bench.goals = {"resident_mb": (0.0, 45.0), "cpu_percent": (0.0, 1.0)}
    bench.details["moments"] = moments
    bench.finish(lambda figure: _draw(figure, seconds, resident))


def _measure(folder: Path, seconds: float) -> tuple[list[tuple[float, float]], float]:
    """Return (seconds, resident MB) each second, and the share of a core that was used."""
    port = _free_port()
    broker = _broker(folder, port)
    agent = _agent(folder, port)
    try:
        _await_connection(agent, folder / "agent.log")
        time.sleep(SETTLE_S)
        began_s, began_cpu_s, moments = time.monotonic(), _cpu_s(agent.pid), []
        while (passed_s := time.monotonic() - began_s) < seconds:
            moments.append((passed_s, sum(resident_bytes(pid) or 0 for pid in _family(agent.pid)) / MB))
            time.sleep(min(1.0, seconds))
        if agent.poll() is not None:
            raise ConfigError(f"the agent ended with {agent.returncode}")
        return moments, (_cpu_s(agent.pid) - began_cpu_s) / (time.monotonic() - began_s)
    finally:
        for process in (agent, broker):
            process.terminate()
            process.wait(30)


def _broker(folder: Path, port: int) -> subprocess.Popen[bytes]:
    binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise ConfigError("Mosquitto is not installed; this measures an agent that is connected")
    config = folder / "mosquitto.conf"
    config.write_text(f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nlog_type none\n", "utf-8")
    return subprocess.Popen([binary, "-c", str(config)], stderr=subprocess.DEVNULL)


def _agent(folder: Path, port: int) -> subprocess.Popen[bytes]:
    write_random_bundle(folder / "bundle", n_params=N_PARAMS, seed=0)
    (folder / "examples.jsonl").write_text('{"text": "the film was good", "label": 1}\n', "utf-8")
    service_key = SigningKey.generate().public.raw.hex()
    (folder / "agent.toml").write_text(
        '[device]\nfleet = "idle"\nid = "pi"\nkey = "device.key"\nbundles = ["bundle"]\n'
        f'service_key = "{service_key}"\n'
        f'[broker]\nurl = "mqtt://127.0.0.1:{port}"\n[data]\ntrain = "examples.jsonl"\n',
        "utf-8",
    )
    command = [sys.executable, "-m", "edgefold", "agent", "run", "--config", str(folder / "agent.toml")]
    with (folder / "agent.log").open("wb") as log:
        return subprocess.Popen(command, stderr=log, stdout=log)


def _await_connection(agent: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and agent.poll() is None:
        if b"link-up" in log.read_bytes():
            return
        time.sleep(0.1)
    raise ConfigError(f"the agent did not connect in {START_S:.0f} s: {log.read_text('utf-8')[-500:]}")


def _family(pid: int) -> list[int]:
    """Return ``pid`` and its living children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [pid, *map(int, children)]


def _cpu_s(pid: int) -> float:
    """Return the processor seconds that ``pid`` and its ended children have used (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return sum(int(one) for one in fields[11:15]) * _TICKS_S


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _draw(figure: Any, seconds: Any, resident: Any) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    axes.plot(seconds, resident, label="edgefold agent")
    for (name, value), style in zip(GREENGRASS_MB.items(), ("--", ":"), strict=True):
        axes.axhline(value, linestyle=style, color="gray", label=f"{name}, as published")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident MB")
    axes.legend()


if __name__ == "__main__":
    main()
