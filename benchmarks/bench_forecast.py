"""Does a pretrained forecaster become better on series that stay on devices?

Fracast-0 with LoRA, four devices, each with six weeks of blood glucose (``models.glucose``), real processes, real
broker; twelve hours of five-minute values in, four hours ahead. Held against the same model untrained, on the six
weeks that came later. EDGEFOLD_ROUNDS (4) and EDGEFOLD_EPOCHS (1) make it shorter or longer. The bundle is kept in
out/bench/forecast-bundle and used again where it is of the same options.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from benchmarks.record import Benchmark
from deploy.demo_view import FleetRecord, watch
from deploy.local import FleetSpec, LocalFleet
from export.adapt import Options
from export.bundle import export_bundle
from export.cli import quiet
from host.bundle_folder import open_bundle
from models.glucose import fetch_glucose, write_parts
from protocol.errors import BundleError
from protocol.plan import Optimizer, Plan

if TYPE_CHECKING:
    from host.bundle_folder import Bundle

OUT: Final = Path("out/bench")
OPTIONS: Final = Options(task="quantile-forecasting", adapter="lora", rank=4, context=144)
N_DEVICES: Final = 4
ROUND_DEADLINE_S: Final = 3600.0  # a loaded machine


def main() -> None:
    """Measure and report."""
    bundle = _bundle(OUT / "forecast-bundle")
    series = bundle.manifest.series
    if series is None:
        message = "the bundle is of no forecaster"
        raise BundleError(message)
    wheel = fetch_glucose(Path(".cache/glucose"))
    least_steps = series.context + series.horizon
    devices, test = write_parts(wheel, OUT / "glucose", n_devices=N_DEVICES, least_steps=least_steps)
    plan = Plan(
        epochs=int(os.environ.get("EDGEFOLD_EPOCHS", "1")),
        batch_size=8,
        micro_batch=2,
        optimizer=Optimizer(learning_rate=1e-3),
        clip_grad_norm=1.0,
    )
    spec = FleetSpec(
        folder=OUT / "forecast-fleet",
        bundle=bundle.folder,
        devices=devices,
        sets={"later": test},
        plan=plan,
        rounds=int(os.environ.get("EDGEFOLD_ROUNDS", "4")),
        task="glucose",
        deadline_s=ROUND_DEADLINE_S,
    )
    bench = Benchmark("forecast", "Does a federated adapter improve a pretrained forecaster's forecasts?")
    with LocalFleet(spec) as fleet:
        record = watch(fleet, Console(), n_params=bundle.manifest.adapter.n_params)
    _summarise(bench, record)
    bench.finish(lambda figure: _draw(figure, record))


def _bundle(folder: Path) -> Bundle:
    """Return the bundle of ``OPTIONS`` in ``folder``, exported unless it is there."""
    if folder.is_dir():
        found = open_bundle(folder)
        facts, series = found.manifest.adapter, found.manifest.series
        if (facts.rank, facts.kind) == (OPTIONS.rank, "lora+head") and series and series.context == OPTIONS.context:
            return found
    quiet()
    folder.parent.mkdir(parents=True, exist_ok=True)
    export_bundle("fracast", OPTIONS, folder)
    return open_bundle(folder)


def _summarise(bench: Benchmark, record: FleetRecord) -> None:
    before, after = record.evaluations[0], record.evaluations[record.final_version]
    bench.summary |= {
        "better_than_last_value_untrained_fraction": before["pooled_accuracy"],
        "better_than_last_value_fraction": after["pooled_accuracy"],
        "squared_error_untrained_variances": before["sets"]["later"]["loss"],
        "squared_error_variances": after["sets"]["later"]["loss"],
        "squared_error_ratio": after["sets"]["later"]["loss"] / before["sets"]["later"]["loss"],
        "trainer_peak_mb": record.trainer_peak_bytes / 2**20,
    }
    bench.goals |= {"squared_error_ratio": (0, 0.98)}
    bench.details["evaluations"] = {str(version): facts["sets"] for version, facts in record.evaluations.items()}


def _draw(figure: Any, record: FleetRecord) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    versions = sorted(record.evaluations)
    axes = figure.add_subplot()
    axes.plot(versions, [record.evaluations[v]["sets"]["later"]["loss"] for v in versions], marker="o")
    axes.set_xlabel("version (0: as pretrained)")
    axes.set_ylabel("squared error on later weeks, variances")


if __name__ == "__main__":
    main()
