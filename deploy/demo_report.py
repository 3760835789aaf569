"""The demo's report: ``report.json`` for programs, ``report.html`` and ``report.png`` for people."""

from __future__ import annotations

import base64
import html
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from host.durable import write_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from deploy.baselines import Baselines
    from deploy.demo_view import FleetRecord

__all__ = ["Facts", "build_report", "write_report"]

_MB: Final = 2**20
_CONTENDERS: Final = ("untrained", "alone_mean", "federated", "centralised")
_COLOURS: Final = {"untrained": "#b0b7c3", "alone_mean": "#e0a458", "federated": "#2a6f97", "centralised": "#468c5c"}
_NAMES: Final = {
    "untrained": "untrained head",
    "alone_mean": "each device alone (mean)",
    "federated": "federated",
    "centralised": "all data in one place",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one run of the demo found out."""

    model: str
    data: str
    float32_bytes: int
    full_model_bytes: int
    record: FleetRecord
    baselines: Baselines
    wall_s: float
    privacy: str = "sealed"


def build_report(facts: Facts) -> dict[str, Any]:
    """Return ``report.json``'s content; accuracies are fractions, bytes are of all devices together unless named."""
    record = facts.record
    last = record.evaluations[record.final_version]
    return {
        "model": facts.model,
        "data": facts.data,
        "broker": record.broker,
        "privacy": facts.privacy,
        "wall_s": round(facts.wall_s, 1),
        "rounds": [
            {
                "round": one.round,
                "devices": one.n_updates,
                "pooled_accuracy": one.pooled_accuracy,
                "loss": one.loss,
                "bytes_up": one.bytes_up,
                "bytes_down": one.bytes_down,
                "seconds": one.seconds,
                "not_training_s": None if one.seconds is None else round(one.seconds - one.train_s_max, 3),
            }
            for one in record.rounds.values()
            if one.version is not None
        ],
        "pooled_accuracy": {
            "untrained": record.evaluations[0]["pooled_accuracy"],
            "alone_mean": facts.baselines.alone_mean,
            "federated": last["pooled_accuracy"],
            "centralised": facts.baselines.centralised.pooled,
        },
        "per_domain": _per_domain(facts, last),
        "update_bytes": {
            "sent": round(sum(record.update_bytes) / len(record.update_bytes)),
            "float32": facts.float32_bytes,
            "full_model": facts.full_model_bytes,
        },
        "memory_mb": {
            "agent_idle": round(record.agent_peak_bytes / _MB, 1),
            "trainer_peak": round(record.trainer_peak_bytes / _MB, 1),
            "aggregator": round(record.aggregator_peak_bytes / _MB, 1),
        },
        "n_restarts": record.n_restarts,
    }


def _per_domain(facts: Facts, last: dict[str, Any]) -> dict[str, dict[str, float]]:
    alone = facts.baselines.alone
    return {
        domain: {
            "untrained": facts.record.evaluations[0]["sets"][domain]["accuracy"],
            "alone_own": alone[domain].sets[domain],
            "alone_mean": sum(scores.sets[domain] for scores in alone.values()) / len(alone),
            "federated": last["sets"][domain]["accuracy"],
            "centralised": facts.baselines.centralised.sets[domain],
        }
        for domain in alone
    }


def write_report(out: Path, report: dict[str, Any], console: Console) -> None:
    """Write the three files and print the table."""
    write_bytes(out / "report.json", json.dumps(report, indent=2).encode() + b"\n", mode=0o644)
    picture = _picture(report)
    write_bytes(out / "report.png", picture, mode=0o644)
    write_bytes(out / "report.html", _page(report, picture).encode(), mode=0o644)
    _print(report, console)


def _accuracy_rows(report: dict[str, Any]) -> list[list[str]]:
    rows = [
        [domain, *(f"{100 * scores[one]:.1f}" for one in ("untrained", "alone_own", *_CONTENDERS[1:]))]
        for domain, scores in report["per_domain"].items()
    ]
    pooled = report["pooled_accuracy"]
    rows.append(
        ["pooled", f"{100 * pooled['untrained']:.1f}", "", *(f"{100 * pooled[c]:.1f}" for c in _CONTENDERS[1:])]
    )
    return rows


_ACCURACY_HEAD: Final = (
    "accuracy, %",
    "untrained",
    "alone, own device",
    "alone, mean",
    "federated",
    "all in one place",
)


def _cost_rows(report: dict[str, Any]) -> list[list[str]]:
    update, memory, rounds = report["update_bytes"], report["memory_mb"], report["rounds"]
    seconds = sorted(one["seconds"] for one in rounds)
    return [
        ["update sent by a device", f"{update['sent'] / 1000:.1f} kB"],
        [
            "  the same as float32",
            f"{update['float32'] / 1000:.1f} kB ({update['sent'] / update['float32']:.2f} of it sent)",
        ],
        [
            "  the whole model",
            f"{update['full_model'] / 1e6:.1f} MB ({update['full_model'] / update['sent']:.0f} times as much)",
        ],
        ["a round, median", f"{seconds[len(seconds) // 2]:.1f} s"],
        ["agent, most while idle", f"{memory['agent_idle']:.1f} MB"],
        ["trainer, peak", f"{memory['trainer_peak']:.1f} MB"],
        ["aggregator, most", f"{memory['aggregator']:.1f} MB"],
    ]


def _print(report: dict[str, Any], console: Console) -> None:
    table = Table(title="Accuracy on held-out text of every domain", title_justify="left")
    for i, head in enumerate(_ACCURACY_HEAD):
        table.add_column(head, justify="left" if i == 0 else "right")
    for row in _accuracy_rows(report):
        table.add_row(*row, style="bold" if row[0] == "pooled" else None)
    console.print(table)
    costs = Table(show_header=False)
    for row in _cost_rows(report):
        costs.add_row(*row)
    console.print(costs)


def _picture(report: dict[str, Any]) -> bytes:
    import matplotlib as mpl  # noqa: PLC0415 - a second to load, wanted at the end only

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), width_ratios=(1, 1.3), layout="constrained")
    _draw_rounds(left, report)
    _draw_domains(right, report)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return file.getvalue()


def _draw_rounds(axes: Any, report: dict[str, Any]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    pooled = report["pooled_accuracy"]
    rounds = [one for one in report["rounds"] if one["pooled_accuracy"] is not None]
    x = [0, *(one["round"] for one in rounds)]
    y = [pooled["untrained"], *(one["pooled_accuracy"] for one in rounds)]
    axes.plot(x, y, marker="o", color=_COLOURS["federated"], label=_NAMES["federated"])
    for name in ("alone_mean", "centralised"):
        axes.axhline(pooled[name], color=_COLOURS[name], linestyle="--", label=_NAMES[name])
    axes.set(xlabel="round", ylabel="pooled accuracy", title="Four devices, no sentence sent")
    axes.set_xticks(x)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")


def _draw_domains(axes: Any, report: dict[str, Any]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    domains = list(report["per_domain"])
    width = 0.8 / len(_CONTENDERS)
    for i, name in enumerate(_CONTENDERS):
        heights = [report["per_domain"][domain][name] for domain in domains]
        positions = [x + (i - (len(_CONTENDERS) - 1) / 2) * width for x in range(len(domains))]
        bars = axes.bar(positions, heights, width, color=_COLOURS[name], label=_NAMES[name])
        axes.bar_label(bars, [f"{100 * height:.0f}" for height in heights], fontsize=8)
    axes.set_xticks(range(len(domains)), domains)
    axes.set(ylim=(0, 1.15), ylabel="accuracy", title="By domain")
    axes.legend(frameon=False, ncols=2, loc="upper center", fontsize=8)


def _page(report: dict[str, Any], picture: bytes) -> str:
    rounds_head = (
        "round",
        "devices",
        "loss",
        "pooled accuracy, %",
        "kB up",
        "kB down",
        "seconds",
        "of it not training",
    )
    rounds = [
        [
            str(one["round"]),
            str(one["devices"]),
            "-" if one["loss"] is None else f"{one['loss']:.3f}",
            f"{100 * one['pooled_accuracy']:.1f}",
            f"{one['bytes_up'] / 1000:.0f}",
            f"{one['bytes_down'] / 1000:.0f}",
            f"{one['seconds']:.1f}",
            f"{one['not_training_s']:.1f}",
        ]
        for one in report["rounds"]
    ]
    image = base64.b64encode(picture).decode()
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>edgefold demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733 }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ padding: .3rem .8rem; text-align: right }}
td:first-child, th:first-child {{ text-align: left }} tr + tr {{ border-top: 1px solid #d9dee5 }}
th {{ border-bottom: 2px solid #1d2733 }} img {{ max-width: 100% }} p.facts {{ color: #52606d }}
</style>
<h1>Four devices made one model better</h1>
<p>Each device kept its own kind of text and sent sealed updates only.</p>
<p class="facts">Model: {html.escape(report["model"])}<br>Data: {html.escape(report["data"])}<br>
Broker: {html.escape(report["broker"])} · privacy: {html.escape(report["privacy"])} ·
whole run {report["wall_s"]:.0f} s</p>
<img alt="Accuracy by round and by domain" src="data:image/png;base64,{image}">
<h2>Accuracy</h2>{_html_table(_ACCURACY_HEAD, _accuracy_rows(report))}
<h2>Rounds</h2>{_html_table(rounds_head, rounds)}
<h2>Cost</h2>{_html_table(("what", "how much"), _cost_rows(report))}
</html>
"""


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(one)}</th>" for one in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"
