"""How every benchmark ends: JSON with a flat summary, a picture beside it, figures and peers on the screen.

Laws: a summary's names carry units; a timing is a ratio of two things run in turn in the same run; a figure measured
elsewhere says where.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl

from host.durable import make_folder, write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["FLOWER", "Benchmark", "Peer", "print_table"]

OUT: Final = Path("out/bench")


@dataclass(frozen=True, slots=True)
class Peer:
    """What a figure was held against, and where that was measured."""

    name: str
    source: str
    figures: Mapping[str, float]


# The same job: MiniLM, LoRA r=8 and a head, four domains of 2,000 examples, batch 16, 4 clients on 2 such cores.
FLOWER: Final = Peer(
    "Flower 1.41",
    "measured by us earlier on a machine of this kind, not in this run",
    {
        "round_s": 84.7,
        "not_training_s": 16.8,
        "sent_by_device_kb": 430.7,
        "received_by_device_kb": 335.7,
        "client_training_peak_mb": 903.0,
    },
)


@dataclass(slots=True)
class Benchmark:
    """One question and its answer."""

    name: str
    question: str
    summary: dict[str, float] = field(default_factory=dict)
    goals: dict[str, tuple[float, float]] = field(default_factory=dict)  # summary key -> (low, high)
    peers: list[Peer] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def finish(self, draw: Callable[[Any], None]) -> None:
        """Write OUT/NAME.json and OUT/NAME.png and print the answer."""
        make_folder(OUT)
        record = {
            "name": self.name,
            "question": self.question,
            "machine": {
                "system": platform.system(),
                "architecture": platform.machine(),
                "python": platform.python_version(),
            },
            "summary": self.summary,
            "goals": {key: {"low": low, "high": high} for key, (low, high) in self.goals.items()},
            "peers": [{"name": one.name, "source": one.source, "figures": dict(one.figures)} for one in self.peers],
            "details": self.details,
        }
        write_bytes(OUT / f"{self.name}.json", json.dumps(record, indent=2).encode() + b"\n", mode=0o644)
        self._picture(draw)
        self._print()

    def _picture(self, draw: Callable[[Any], None]) -> None:
        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

        figure = plt.figure(figsize=(9, 4.5), layout="constrained")
        draw(figure)
        figure.suptitle(self.question)
        figure.savefig(OUT / f"{self.name}.png", dpi=110)
        plt.close(figure)

    def _print(self) -> None:
        print(f"\n{self.name}: {self.question}")
        for key, value in self.summary.items():
            low, high = self.goals.get(key, (float("-inf"), float("inf")))
            verdict = (
                "" if key not in self.goals else "  meets its goal" if low <= value <= high else "  MISSES ITS GOAL"
            )
            bound = "" if key not in self.goals else f"  (goal {low:g} to {high:g})"
            print(f"  {key:<44} {value:>12.4g}{bound}{verdict}")
        for peer in self.peers:
            print(f"  peer: {peer.name} ({peer.source})")
            for key, value in peer.figures.items():
                print(f"    {key:<42} {value:>12.4g}")
        print(f"  written: {OUT / self.name}.json, {OUT / self.name}.png")


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their head, the first column to the left and the others to the right."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for first, *rest in lines:
        cells = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        print(f"{first:<{widths[0]}}  {'  '.join(cells)}".rstrip())
