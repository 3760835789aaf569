"""How fast are sealed updates folded, beside what the machine could do at most?

The real path of a round that closes: each blob is read and checked against its name, opened with HPKE, decoded, checked
and added in float64, by one thread, by threads, by the processes of ``fold.engine = "workers"``, which take 64 updates
each at a time, and by what a service chooses that was told nothing (``fold.engine = "auto"``). Beside it, in turn in
the same run, on the same bytes: a memory copy, AES-GCM, SHA-256, a broker that only passes them on. The peer is
Flower's rule (weight, reduce, divide) in numpy on plain float32 vectors: ``flwr`` itself is not started.
``--sizes 75268`` does one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import paho.mqtt.client as paho
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paho.mqtt.enums import CallbackAPIVersion

from aggregator.adapters.fold_processes import ProcessFoldEngine
from aggregator.core.partial_sums import CHUNK
from aggregator.fold_pool import n_cores
from aggregator.fold_settings import FoldSettings, make_engine
from aggregator.serve import FREED_BYTES
from benchmarks.record import Benchmark, Peer
from deploy.supervised import Supervised
from deploy.toml_text import toml_text
from host.allocator import keep_freed_memory
from tests.aggregator.stored_rounds import StoredUpdates

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIZES: Final = {75_268: 4 * CHUNK, 5_000_000: 2 * CHUNK}  # parameters -> updates in a round
SAMPLE: Final = 6  # updates that the limits are measured on
REPEATS: Final = 5
MAX_PACKET: Final = 64 << 20
IN_FLIGHT: Final = 20  # of the broker's messages

Times = dict[str, float]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    keep_freed_memory(FREED_BYTES)  # as the service does
    bench = Benchmark("fold", "How fast are sealed updates folded?")
    rows = {}
    with tempfile.TemporaryDirectory(prefix="edgefold-fold-") as folder:
        for size in map(int, options.sizes.split(",")):
            rows[size] = _measure(Path(folder) / str(size), size, options.repeats)
            _summarise(bench, size, rows[size])
    bench.details["milliseconds_per_update"] = {
        str(size): {k: 1e3 * v for k, v in row.items()} for size, row in rows.items()
    }
    bench.peers.append(
        Peer(
            "Flower's rule in numpy, plain float32 vectors",
            "in this run; flwr itself was not started",
            {f"updates_per_s_{size}": 1 / row["flower_rule"] for size, row in rows.items()},
        )
    )
    bench.finish(lambda figure: _draw(figure, rows))


def _measure(folder: Path, size: int, repeats: int) -> Times:
    """Return seconds an update of each thing, the best of ``repeats`` that took turns."""
    n = SIZES.get(size, 2 * CHUNK)
    folder.mkdir()
    stored = StoredUpdates(folder, n_params=size, n_updates=n)
    sealed = [stored.blobs.get(one.blob, max_bytes=MAX_PACKET) for one in stored.updates[:SAMPLE]]
    vectors = [stored.delta(i) for i in range(SAMPLE)]
    cipher, nonce = AESGCM(bytes(32)), bytes(12)
    encrypted = [cipher.encrypt(nonce, one, None) for one in sealed]
    target = bytearray(max(map(len, sealed)))
    view = memoryview(target)

    def copy() -> None:
        for one in sealed:
            view[: len(one)] = one

    folds: dict[str, Callable[[], NDArray[np.float32]]] = {
        "fold_1_worker": lambda: stored.fold(workers=1),
        "fold_all_cores": lambda: stored.fold(workers=n_cores()),
        "fold_default": lambda: stored.fold(workers=0, engine=default),
        "fold_processes": lambda: stored.fold(workers=0, engine=processes),
    }
    limits: dict[str, Callable[[], object]] = {
        "memory_copy": copy,
        "aes_gcm": lambda: [cipher.decrypt(nonce, one, None) for one in encrypted],
        "sha256": lambda: [hashlib.sha256(one).digest() for one in sealed],
        "flower_rule": lambda: _flower_rule(vectors),
    }
    with ExitStack() as stack:
        processes = stack.enter_context(closing(ProcessFoldEngine(folder / "blobs", workers=n_cores())))
        default = make_engine(FoldSettings(), folder / "blobs")
        if default is not None:
            stack.callback(default.close)
        right = stored.reference().tobytes()
        if any(fold().tobytes() != right for fold in folds.values()):
            raise AssertionError("a fold gave other bytes")  # a wrong fold has no speed
        best = dict.fromkeys([*folds, *limits], float("inf"))
        for _ in range(repeats):
            for name, thing in (folds | limits).items():
                started = time.perf_counter()
                thing()
                best[name] = min(best[name], (time.perf_counter() - started) / (n if name in folds else SAMPLE))
    best["broker_alone"] = _broker_alone(folder, sealed, repeats)
    best["sealed_bytes"] = float(len(sealed[0]))
    return best


def _flower_rule(vectors: list[Any]) -> Any:  # noqa: ANN401 - arrays
    weighted = [vector * (i + 1) for i, vector in enumerate(vectors)]
    return reduce(np.add, weighted) / sum(range(1, len(vectors) + 1))


def _broker_alone(folder: Path, messages: list[bytes], repeats: int) -> float:
    """Return the seconds that a broker needs to take a message and hand it on, QoS 1 both ways."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (folder / "devices.toml").write_text("[devices]\n")
    settings = {
        "service": {"fleet": "bench", "folder": "broker", "key": "service.key"},
        "devices": {"registry": "devices.toml"},
        "broker": {"port": port, "insecure_loopback": True, "max_packet_bytes": MAX_PACKET},
    }
    (folder / "broker.toml").write_text(toml_text(settings))
    broker = Supervised("broker", ["broker", "--config", str(folder / "broker.toml")], folder / "broker.log")
    broker.start()
    try:
        end_s = time.monotonic() + 30
        while not any(one.name == "broker-started" for one in broker.new_events()):
            if time.monotonic() > end_s:
                raise TimeoutError("the broker did not start")
            time.sleep(0.05)
        return min(_pass_on(port, messages) for _ in range(repeats))
    finally:
        broker.stop()


def _pass_on(port: int, messages: list[bytes]) -> float:
    is_subscribed, all_came, slots, came = (
        threading.Event(),
        threading.Event(),
        threading.Semaphore(IN_FLIGHT),
        [],
    )

    def heard(_client: Any, _data: Any, message: Any) -> None:  # noqa: ANN401 - paho's signature
        came.append(len(message.payload))
        slots.release()
        if len(came) == len(messages):
            all_came.set()

    receiver = paho.Client(CallbackAPIVersion.VERSION2, client_id="receiver")
    receiver.on_message, receiver.on_subscribe = heard, lambda *_: is_subscribed.set()
    receiver.connect("127.0.0.1", port)
    receiver.subscribe("bench", qos=1)
    receiver.loop_start()
    sender = paho.Client(CallbackAPIVersion.VERSION2, client_id="sender")
    sender.connect("127.0.0.1", port)
    sender.loop_start()
    is_subscribed.wait(30)
    started = time.perf_counter()
    for message in messages:
        slots.acquire()
        sender.publish("bench", message, qos=1)
    if not all_came.wait(60):
        raise TimeoutError("the broker lost a message")
    seconds = (time.perf_counter() - started) / len(messages)
    for client in (sender, receiver):
        client.disconnect()
        client.loop_stop()
    return seconds


def _summarise(bench: Benchmark, size: int, row: Times) -> None:
    limits = {name: row[name] for name in ("memory_copy", "aes_gcm", "sha256", "broker_alone")}
    fastest = min(row["fold_default"], row["fold_processes"])
    slowest = max(limits.values())
    gb = row["sealed_bytes"] / 1e9
    bench.summary |= {
        f"folded_per_s_per_core_{size}": 1 / row["fold_1_worker"],
        f"folded_per_s_all_cores_{size}": 1 / row["fold_all_cores"],
        f"folded_per_s_{size}": 1 / row["fold_default"],
        f"folded_per_s_by_processes_{size}": 1 / row["fold_processes"],
        f"gb_per_s_{size}": gb / row["fold_default"],
        f"gb_per_s_by_processes_{size}": gb / row["fold_processes"],
        **{f"{name}_gb_per_s_{size}": gb / seconds for name, seconds in limits.items()},
        f"of_slowest_limit_ratio_{size}": slowest / row["fold_default"],
        f"best_of_slowest_limit_ratio_{size}": slowest / fastest,
    }
    for name in ("of_slowest_limit_ratio", "best_of_slowest_limit_ratio"):
        bench.goals[f"{name}_{size}"] = (0.6, float("inf"))
    bench.details["cores"] = os.cpu_count()


def _draw(figure: Any, rows: dict[int, Times]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    for i, (size, row) in enumerate(rows.items()):
        axes = figure.add_subplot(1, len(rows), i + 1)
        names = [name for name in row if name != "sealed_bytes"]
        axes.barh(names, [1e3 * row[name] for name in names])
        axes.set_title(f"{size:,} parameters")
        axes.set_xlabel("milliseconds an update")


if __name__ == "__main__":
    main()
