"""How fast is a round folded by the service's own process, by processes beside it, and by a Ray cluster of two nodes?

The same stored round three times, in turn in the same run: ``local`` with one thread and with the default, ``workers``
with a process for each core, ``ray`` on two nodes of one CPU each on this machine, its blobs in a folder. All give the
same bytes, which is checked. On one machine a cluster can only lose: what is measured is what it costs. Ray is left out
where it is not installed. ``--updates 130 --sizes 2000`` is a quick look.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aggregator.adapters.fold_processes import ProcessFoldEngine
from aggregator.adapters.fold_ray import RayFoldEngine
from aggregator.core.partial_sums import CHUNK
from aggregator.fold_pool import n_cores
from benchmarks.record import Benchmark
from deploy.ray_cluster import RayCluster
from tests.aggregator.stored_rounds import StoredUpdates

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES: Final = {75_268: 8 * CHUNK, 1_000_000: 2 * CHUNK}  # parameters -> updates in a round
REPEATS: Final = 3


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--updates", type=int, help="in a round; default: by size")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    bench = Benchmark("scale", "How fast do engines fold a round?")
    rows: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="edgefold-scale-") as folder, ExitStack() as stack:
        cluster = _cluster(Path(folder), stack)
        for size in map(int, options.sizes.split(",")):
            n_updates = options.updates or SIZES.get(size, 2 * CHUNK)
            rows[size] = _measure(Path(folder) / str(size), size, n_updates, options.repeats, cluster)
            for name, seconds in rows[size].items():
                bench.summary[f"{name}_updates_per_s_{size}"] = n_updates / seconds
            bench.summary[f"workers_of_local_ratio_{size}"] = rows[size]["local"] / rows[size]["workers"]
            if "ray" in rows[size]:
                bench.summary[f"ray_of_local_ratio_{size}"] = rows[size]["local"] / rows[size]["ray"]
    bench.details["seconds_per_round"] = {str(size): row for size, row in rows.items()}
    bench.finish(lambda figure: _draw(figure, rows))


def _cluster(folder: Path, stack: ExitStack) -> RayCluster | None:
    if importlib.util.find_spec("ray") is None:
        print("ray is not installed: left out (pip install 'edgefold[scale]')")
        return None
    cluster = stack.enter_context(RayCluster(folder / "ray"))
    os.environ.update(cluster.access)
    return cluster


def _measure(folder: Path, size: int, n_updates: int, repeats: int, cluster: RayCluster | None) -> dict[str, float]:
    """Return seconds a round of each engine, the best of ``repeats`` that took turns; starts are not in it."""
    folder.mkdir()
    stored = StoredUpdates(folder, n_params=size, n_updates=n_updates)
    with ExitStack() as stack:
        workers = stack.enter_context(closing(ProcessFoldEngine(folder / "blobs", workers=n_cores())))
        engines: dict[str, Any] = {"local_one_thread": None, "local": None, "workers": workers}
        if cluster is not None:
            ray = RayFoldEngine(folder / "blobs", address=cluster.address, secret=str(folder / "fold.secret"))
            engines["ray"] = stack.enter_context(closing(ray))
        things: dict[str, Callable[[], bytes]] = {
            name: lambda engine=engine, threads=1 if name == "local_one_thread" else 0: stored.fold(
                workers=threads, engine=engine
            ).tobytes()
            for name, engine in engines.items()
        }
        if len({thing() for thing in things.values()}) != 1:
            raise AssertionError("engines gave different bytes")  # a wrong fold has no speed
        best = dict.fromkeys(things, float("inf"))
        for _ in range(repeats):
            for name, thing in things.items():
                started = time.perf_counter()
                thing()
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def _draw(figure: Any, rows: dict[int, dict[str, float]]) -> None:  # noqa: ANN401 - matplotlib
    axes = figure.subplots(1, len(rows), squeeze=False)[0]
    for at, (size, row) in zip(axes, rows.items(), strict=True):
        at.barh(list(row), [1e3 * seconds for seconds in row.values()])
        at.set_title(f"{size:,} parameters")
        at.set_xlabel("ms a round")


if __name__ == "__main__":
    main()
