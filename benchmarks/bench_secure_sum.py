"""What does a secure sum cost devices and server, beside the plain sum and Flower's functions?

Every device and the server run all their steps in this process, over messages in memory: seconds are computation, bytes
are what would go on the wire. Drop-outs fall silent after sharing, which costs the server most. Flower's functions run
in an environment of their own, made here from the package registry, cell by cell in turn with ours. WHOLE=1
(environment) measures 500 devices in every cell too, which takes most of an hour; ``--cohorts 500 --sizes 1000000``
measures what is asked for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.record import OUT, Benchmark, Peer
from protocol.secure_sum import device, graph
from protocol.secure_sum.messages import SumPlan
from protocol.secure_sum.quantise import Quantiser, packed_bytes
from protocol.secure_sum.server import SumServer
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from protocol.secure_sum.device_state import DeviceState

FLWR: Final = "flwr==1.41.0"  # what we measure the rest of Flower with
SMALL, LARGE = 75_268, 1_000_000  # an adapter of MiniLM (LoRA r = 8 and a head), and the round figure of the papers
SIZE_NAMES: Final = {SMALL: "75k", LARGE: "1m"}
DROPS: Final = (0.0, 0.1, 0.3)
COHORTS: Final = (10, 50, 100)
WHOLE: Final = os.environ.get("WHOLE") == "1"
BUDGET_S: Final = 240  # the cell of 500 devices is left out, and says so, if the others took longer
STEPS: Final = ("adverts", "shares", "inputs", "consents", "unmasking")
# Bonawitz et al. 2017, abstract: 2**10 users, 2**20 dimensions, against 16-bit values sent in the clear.
BONAWITZ_EXPANSION: Final = 1.73


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one run of a sum took."""

    n: int
    n_params: int
    drop_fraction: float
    neighbours: int
    threshold: int
    bits: int
    device_s: float
    server_s: float
    plain_server_s: float
    up_bytes: float
    down_bytes: float

    @property
    def expansion(self) -> float:
        """Bytes that a device sends, against 4 bytes a parameter."""
        return self.up_bytes / (4 * self.n_params)


def plan_for(n: int, n_params: int, *, dropout_fraction: float) -> SumPlan:
    """Return the plan of a cell: a lying server, 5% corrupt devices."""
    return SumPlan(
        fleet="bench",
        task="sum",
        round=1,
        version=0,
        n_params=n_params,
        clip=1.0,
        weight_cap=1000,
        max_cohort=n,
        corrupt_fraction=0.05,
        dropout_fraction=dropout_fraction,
    )


class Run:
    """One sum of n devices."""

    def __init__(self, plan: SumPlan, n: int) -> None:
        """Make the devices."""
        self.plan = plan
        self.keys = {f"device-{i:04d}": SigningKey.generate() for i in range(n)}
        self.directory = {name: key.public for name, key in self.keys.items()}
        self.server = SumServer(plan=plan, directory=self.directory)
        self.vector = np.random.default_rng(0).uniform(-1, 1, plan.n_params).astype(np.float32)
        self.states: dict[str, DeviceState] = {}
        self.device_s = self.server_s = 0.0
        self.up_bytes = self.down_bytes = 0

    def answer(self, step: str, name: str, data: bytes) -> bytes:
        """Let one device take one step."""
        key, directory, state = self.keys[name], self.directory, self.states.get(name)
        if step == "adverts" or state is None:
            self.states[name], reply = device.advertise(self.plan, name=name, key=key, entropy=os.urandom(32))
        elif step == "shares":
            self.states[name], reply = device.take_roster(state, data, directory=directory)
        elif step == "inputs":
            self.states[name], reply = device.take_delivery(state, data, vector=self.vector, weight=500, key=key)
        elif step == "consents":
            self.states[name], reply = device.take_survivors(state, data, directory=directory, key=key)
        else:
            self.states[name], reply = device.take_agreement(state, data, directory=directory)
        return reply

    def finish(self, silent: set[str]) -> None:
        """Run all steps; ``silent`` devices stop after sharing."""
        messages = dict.fromkeys(self.keys, b"")
        for step in STEPS:
            for name, data in messages.items():
                if name in silent and step not in {"adverts", "shares"}:
                    continue
                start = time.perf_counter()
                reply = self.answer(step, name, data)
                middle = time.perf_counter()
                self.server.receive(name, reply)
                end = time.perf_counter()
                if name not in silent:
                    self.device_s, self.up_bytes = self.device_s + middle - start, self.up_bytes + len(reply)
                    self.down_bytes += len(data)
                self.server_s += end - middle
            start = time.perf_counter()
            messages = self.server.close()
            self.server_s += time.perf_counter() - start
        if self.server.step != "done":
            sys.exit(f"the sum was given up: {self.server.abort_reason}")
        # Every device sent the same vector, so the mean is that vector, up to the stated rounding of one device.
        if np.abs(self.server.result().mean - self.vector).max() > self.quantiser.step:
            sys.exit("the sum is not the sum")

    @property
    def quantiser(self) -> Quantiser:
        """The format of the cell."""
        return quantiser_for(self.plan)


def quantiser_for(plan: SumPlan) -> Quantiser:
    """Return the plan's fixed-point format."""
    return Quantiser(
        n_params=plan.n_params,
        clip=plan.clip,
        weight_cap=plan.weight_cap,
        input_bits=plan.input_bits,
        max_cohort=plan.max_cohort,
    )


def measure(n: int, n_params: int, drop: float, *, dropout_fraction: float) -> Cell:
    """Run one cell."""
    run = Run(plan_for(n, n_params, dropout_fraction=dropout_fraction), n)
    n_dropped = int(n * drop)
    run.finish(set(list(run.keys)[:: n // n_dropped][:n_dropped]) if n_dropped else set())
    n_alive, spec = n - n_dropped, run.server.setting.spec
    return Cell(
        n=n,
        n_params=n_params,
        drop_fraction=drop,
        neighbours=spec.k,
        threshold=spec.threshold,
        bits=run.quantiser.bits,
        device_s=run.device_s / n_alive,
        server_s=run.server_s,
        plain_server_s=plain_sum_s(run.vector, n_alive),
        up_bytes=run.up_bytes / n_alive,
        down_bytes=run.down_bytes / n_alive,
    )


def plain_sum_s(vector: np.ndarray, n: int) -> float:
    """Return the seconds of summing the same float32 vectors from bytes, weighted, in float64."""
    data = vector.tobytes()
    start = time.perf_counter()
    total = np.zeros(vector.size)
    for _ in range(n):
        total += 500.0 * np.frombuffer(data, "<f4")
    total /= 500.0 * n
    return time.perf_counter() - start


class Flower:
    """Flower's functions in a process of another environment; absent where that cannot be made."""

    def __init__(self, folder: Path) -> None:
        """Make the environment, once."""
        self.python = folder / "bin" / "python"
        self.problem = ""
        try:
            if not self.python.exists():
                print(f"making {folder} with {FLWR}")
                venv.create(folder, with_pip=True)
            command: list[str | Path] = [
                self.python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                FLWR,
            ]
            subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.SubprocessError) as error:
            self.problem = f"{FLWR} could not be installed: {type(error).__name__}"
            print(f"NOT measured against Flower: {self.problem}")

    def measure(self, cell: Cell) -> dict[str, float] | None:
        """Return device_s, server_s and vector_bytes of the same cohort with as many shares and the same threshold."""
        if self.problem:
            return None
        case = {
            "n": cell.n,
            "shares": cell.neighbours + 1,
            "threshold": cell.threshold,
            "n_params": cell.n_params,
            "n_dropped": int(cell.n * cell.drop_fraction),
        }
        script = Path(__file__).with_name("flower_sum.py")
        done = subprocess.run(
            [self.python, script],
            input=json.dumps(case) + "\n",
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        )
        found: dict[str, float] = json.loads(done.stdout)
        return found


def is_for_flower(cell: Cell) -> bool:
    """Return whether Flower gets this cell: its slowest ones would take the run past five minutes."""
    if cell.n_params == LARGE:
        return cell.n == 10 and cell.drop_fraction == 0.1
    return cell.n < 100 or cell.drop_fraction == 0.1


def expansion_at_1000(dropout_fraction: float) -> tuple[float, float]:
    """Return bytes up, and up plus down, of 1,000 devices and 2**20 values against 2 bytes a value.

    From the lengths of the messages, a formula that ``main`` holds against a measured cell. The paper's cohort is
    1,024, for which the sum would need no bit more.
    """
    n, n_params = 1000, 2**20
    plan = plan_for(n, n_params, dropout_fraction=dropout_fraction)
    up, down = message_bytes(plan, n)
    return up / (2 * n_params), (up + down) / (2 * n_params)


def message_bytes(plan: SumPlan, n: int) -> tuple[int, int]:
    """Return what a device sends and receives if nobody drops out, without CBOR's heads and keys (under 400 bytes)."""
    spec = graph.choose(
        n, corrupt_fraction=plan.corrupt_fraction, dropout_fraction=plan.dropout_fraction, server=plan.server
    )
    quantiser, k, set_bytes = quantiser_for(plan), spec.k, (n + 7) // 8
    values = packed_bytes(quantiser.n_values, quantiser.bits)
    up = 128 + (32 + 88 * k) + (values + 64) + 64 + (set_bytes + 36 * (k + 1))
    down = (n * (32 + 12) + 128 * k) + (set_bytes + 88 * k) + 2 * (set_bytes + 64 * k)
    return up, down


def check_formula(cell: Cell) -> None:
    """Stop if a measured cell without drop-outs is not what ``message_bytes`` says."""
    up, down = message_bytes(plan_for(cell.n, cell.n_params, dropout_fraction=0.3), cell.n)
    if not (up <= cell.up_bytes <= up + 400 and down <= cell.down_bytes <= down + 400):
        sys.exit(f"the formula says {up} and {down} bytes, measured {cell.up_bytes} and {cell.down_bytes}")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=_numbers, default=(*COHORTS, *((500,) if WHOLE else ())))
    parser.add_argument("--sizes", type=_numbers, default=(SMALL, LARGE))
    options = parser.parse_args()
    is_usual = options.cohorts == COHORTS and options.sizes == (SMALL, LARGE)
    began, flower = time.monotonic(), Flower(OUT / "flower-venv")
    pairs: list[tuple[Cell, dict[str, float] | None]] = []
    for n_params, n, drop in itertools.product(options.sizes, options.cohorts, DROPS):
        cell = measure(n, n_params, drop, dropout_fraction=0.3)
        pairs.append((cell, flower.measure(cell) if is_for_flower(cell) else None))
        show(*pairs[-1])
    check_formula(pairs[0][0])
    bench = Benchmark("secure_sum", "What does a secure sum cost, beside the plain sum and Flower's functions?")
    if is_usual and time.monotonic() - began < BUDGET_S:
        pairs.append((measure(500, SMALL, 0.1, dropout_fraction=0.1), None))
        show(*pairs[-1])
    elif is_usual:
        print(f"500 devices NOT measured: the cells before took more than {BUDGET_S} s")
    _summarise(bench, pairs, flower.problem)
    bench.finish(lambda figure: _draw(figure, pairs))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def show(cell: Cell, peer: dict[str, float] | None) -> None:
    """Print one line of the table."""
    theirs = "" if peer is None else f" | Flower device {peer['device_s']:.3f} s, server {peer['server_s']:.2f} s"
    print(
        f"n={cell.n:<4} {cell.n_params:>9,} parameters, {cell.drop_fraction:>4.0%} dropped, k={cell.neighbours:<3} "
        f"t={cell.threshold:<3} {cell.bits} bits: device {1000 * cell.device_s:7.1f} ms, server {cell.server_s:7.3f} s "
        f"({cell.server_s / cell.plain_server_s:5.1f} x plain), up {cell.up_bytes / 1000:8.1f} kB "
        f"({cell.expansion:.3f} x float32), down {cell.down_bytes / 1000:6.1f} kB{theirs}",
        flush=True,
    )


def _summarise(bench: Benchmark, pairs: list[tuple[Cell, dict[str, float] | None]], problem: str) -> None:
    for cell, peer in pairs:
        if cell.drop_fraction != 0.1:
            continue
        key = f"n{cell.n}_{SIZE_NAMES.get(cell.n_params, cell.n_params)}_10pct_dropped"
        bench.summary[f"{key}_device_ms"] = 1000 * cell.device_s
        bench.summary[f"{key}_server_s"] = cell.server_s
        bench.summary[f"{key}_up_x_float32"] = cell.expansion
        if peer is not None:
            bench.summary[f"{key}_server_times_faster"] = peer["server_s"] / cell.server_s
            bench.summary[f"{key}_device_times_faster"] = peer["device_s"] / cell.device_s
    for percent in (10, 30):
        up, both = expansion_at_1000(percent / 100)
        key = f"n1000_2pow20_for_{percent}pct"
        bench.summary |= {f"{key}_up_x_16bit": up, f"{key}_up_and_down_x_16bit": both}
    bench.goals["n1000_2pow20_for_30pct_up_x_16bit"] = (0, BONAWITZ_EXPANSION)
    if "n100_75k_10pct_dropped_server_times_faster" in bench.summary:
        bench.goals["n100_75k_10pct_dropped_server_times_faster"] = (10, float("inf"))
    bench.peers.append(
        Peer("Bonawitz 2017", "arXiv abstract, not in this run", {"n1024_2pow20_x_16bit": BONAWITZ_EXPANSION})
    )
    figures = {
        f"n{cell.n}_{cell.n_params}_{cell.drop_fraction:g}_server_s": peer["server_s"]
        for cell, peer in pairs
        if peer is not None
    }
    source = problem or "measured in this run, cell by cell; more than 2 secrets of a kind are scaled from 2"
    bench.peers.append(Peer(f"the functions of {FLWR}", source, figures))
    bench.details["cells"] = [asdict(cell) | {"expansion": cell.expansion, "flower": peer} for cell, peer in pairs]


def _draw(figure: Any, pairs: list[tuple[Cell, dict[str, float] | None]]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    for n_params, style in zip(sorted({cell.n_params for cell, _ in pairs}), ("o-", "s-", "^-", "v-"), strict=False):
        chosen = [cell for cell, _ in pairs if cell.n_params == n_params and cell.drop_fraction == 0.1]
        axes.plot([c.n for c in chosen], [c.server_s for c in chosen], style, label=f"server, {n_params:,} parameters")
    theirs = [(c.n, p["server_s"]) for c, p in pairs if p and c.n_params == SMALL and c.drop_fraction == 0.1]
    if theirs:
        axes.plot(*zip(*theirs, strict=True), "x--", color="grey", label=f"server, Flower, {SMALL:,} parameters")
    axes.set(xlabel="devices, of which 10% drop out", ylabel="seconds", yscale="log", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


if __name__ == "__main__":
    main()
