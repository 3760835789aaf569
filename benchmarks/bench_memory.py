"""Is a bundle's memory plan right? Predicted peaks of a trainer beside measured ones.

MiniLM, LoRA r=8 and a head; for each precision, with and without checkpointing, trainer processes at several shapes on
texts that fill them, a bundle's files in small pages (``benchmarks/residency.py``); and the same by the graph that
clips single examples. Nothing is timed, so it needs no quiet machine. ``--precisions fp32,nb4``
does some.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.full_texts import write_full_texts
from benchmarks.record import Benchmark
from benchmarks.residency import in_small_pages
from export.adapt import Options
from export.bundle import export_bundle
from export.heavy import quiet
from host.trainer_process import run_job
from protocol.jobs import TrainJob
from protocol.plan import Plan, SampleDp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from protocol.bundle import MemoryPeak

SHAPES: Final = ((1, 32), (8, 64), (16, 64), (8, 128), (2, 256))
STEPS: Final = 4
DP: Final = SampleDp(clip=1.0, noise_multiplier=1.0)
MB: Final = 2**20

Row = dict[str, Any]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", default="fp32,nb8,nb4")
    options = parser.parse_args()
    quiet()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edgefold-memory-") as name:
        for precision in options.precisions.split(","):
            for checkpoint in (False, True):
                label = precision + ("+checkpoint" if checkpoint else "")
                chosen = Options(
                    n_labels=2, precision=precision, checkpoint=checkpoint, max_tokens=256, per_example=True
                )
                bundle = export_bundle("minilm", chosen, Path(name) / label)
                in_small_pages(bundle.folder)
                rows += _compared(label, bundle.manifest.memory, bundle.folder, dp=None)
                rows += _compared(f"{label}, single examples", bundle.manifest.memory_per_example, bundle.folder, dp=DP)
    bench = Benchmark("memory", "Is the memory plan right?")
    ratios = [row["predicted_mb"] / row["measured_mb"] for row in rows]
    bench.summary = {
        "lowest_predicted_to_measured_ratio": min(ratios),
        "highest_predicted_to_measured_ratio": max(ratios),
    }
    bench.goals = dict.fromkeys(bench.summary, (0.8, 1.2))
    bench.details["rows"] = rows
    bench.finish(lambda figure: _draw(figure, rows))


def _compared(label: str, plan: Sequence[MemoryPeak] | None, bundle: Path, *, dp: SampleDp | None) -> Iterator[Row]:
    for peak in plan or ():
        if (peak.batch, peak.seq) in SHAPES:
            measured = _measured(bundle, peak.batch, peak.seq or 1, dp=dp)
            row = {
                "bundle": label,
                "batch": peak.batch,
                "seq": peak.seq,
                "predicted_mb": peak.peak_bytes / MB,
                "measured_mb": measured / MB,
            }
            print(
                "  ".join(f"{k} {v if isinstance(v, (str, int)) else f'{v:.0f}'}" for k, v in row.items()), flush=True
            )
            yield row


def _measured(bundle: Path, batch: int, seq: int, *, dp: SampleDp | None) -> int:
    plan = Plan(batch_size=batch, max_tokens=seq, epochs=STEPS, dp=dp)  # as many texts as a batch: dp draws them all
    with tempfile.TemporaryDirectory(prefix="edgefold-memory-") as scratch:
        data = write_full_texts(Path(scratch) / "full.jsonl", bundle=bundle, n_texts=batch, seq=seq)
        job = TrainJob(bundle=str(bundle), data=str(data), out=scratch, plan=plan)
        return run_job(job, deadline_s=1200).peak_memory_bytes


def _draw(figure: Any, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    for bundle in dict.fromkeys(row["bundle"] for row in rows):
        own = [row for row in rows if row["bundle"] == bundle]
        axes.plot([row["measured_mb"] for row in own], [row["predicted_mb"] for row in own], "o", label=bundle)
    most = max(max(row["measured_mb"], row["predicted_mb"]) for row in rows)
    axes.plot([0, most], [0, most], color="grey")
    axes.set_xlabel("measured, MB")
    axes.set_ylabel("predicted, MB")
    axes.legend()


if __name__ == "__main__":
    main()
