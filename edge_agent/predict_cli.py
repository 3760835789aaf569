"""``edgefold agent predict``: asks this device's model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from edge_agent.cli_options import CONFIG, JSON

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["predict"]


@click.command()
@click.argument("what", metavar="TEXT|FILE")
@CONFIG
@JSON
def predict(what: str, config_path: Path, *, as_json: bool) -> None:
    """Say what this device's model makes of TEXT, or of every line of FILE (.jsonl or .csv; .json: one input).

    Asks the running agent's endpoint ([predict] port) if there is one, and otherwise loads the model here: the newest
    adapter that the service handed to this device, with its personal part; before that, the bundle's own.
    """
    from edge_agent.config import AgentConfig  # noqa: PLC0415 - --help needs none of this
    from edge_agent.local.inquiry import answer_all, read_inputs  # noqa: PLC0415
    from host.config import load  # noqa: PLC0415

    config = load(AgentConfig, config_path)
    result = answer_all(config_path.parent, config, list(read_inputs(what)))
    if as_json:
        click.echo(json.dumps(result))
        return
    for one in result["predictions"]:
        click.echo(_line(one))
    model, latency = result["model"], result["latency"]
    personal = ", with a personal part" if model["is_personal"] else ""
    where = f"version {model['version']} of task {model['task']}" if model["task"] else "the bundle's own adapter"
    click.echo(f"by {where}{personal}; p50 {latency['p50_ms']:g} ms, p95 {latency['p95_ms']:g} ms over {latency['n']}")


def _line(one: dict[str, Any]) -> str:
    if "forecast" in one:
        return "  ".join(" ".join(f"{value:.4g}" for value in step) for step in one["forecast"])
    if "words" in one:
        return " ".join(str(word["name"]) for word in one["words"])
    shares = "  ".join(f"{name} {share:.3f}" for name, share in one["probabilities"].items())
    return f"{one['name']:<16} {shares}"
