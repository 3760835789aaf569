"""``edgefold agent doctor`` and ``edgefold agent status``: what is wrong with this device, and what it is doing."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edge_agent.cli_options import CONFIG, JSON
from edge_agent.stream_status import stream_lines

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.status import Status

__all__ = ["doctor", "status"]


@click.command()
@CONFIG
@JSON
def doctor(config_path: Path, *, as_json: bool) -> None:
    """Say hop by hop what works, what fails and how to put it right; exit with 1 if anything failed.

    Changes nothing and publishes nothing. Beside a running agent, what would disturb it is left out.
    """
    from edge_agent.doctor.examination import examine  # noqa: PLC0415 - --help needs none of this

    findings = examine(config_path)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in findings]))
    else:
        for one in findings:
            click.echo(f"{one.state:<8} {one.name:<13} {one.what}")
            if one.fix:
                click.echo(f"{'':<22} fix: {one.fix}")
    sys.exit(1 if any(one.state == "failed" for one in findings) else 0)


@click.command()
@CONFIG
@JSON
def status(config_path: Path, *, as_json: bool) -> None:
    """Show on one screen why this device is or isn't training; reads its files alone."""
    from edge_agent.status import read_status  # noqa: PLC0415

    found = read_status(config_path)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    for name, text in [*_lines(found), *stream_lines(found.stream)]:
        click.echo(f"{name:<13} {text}")


def _lines(found: Status) -> list[tuple[str, str]]:
    last = found.last_receipt
    receipt = "none yet" if last is None else f"{last.task} round {last.round}: {last.status} at {_date(last.unix_s)}"
    if last is not None and last.reason is not None:
        receipt += f" ({last.reason})"
    job = "none" if found.task is None else f"{found.task} round {found.round}, {found.n_failures} failed attempts"
    done = ", ".join(f"{task} to round {number}" for task, number in sorted(found.done.items())) or "nothing yet"
    end = "none" if found.certificate_end_unix_s is None else f"holds until {_date(found.certificate_end_unix_s)}"
    refused = found.last_refusal
    return [
        ("device", f"{found.fleet}/{found.device}"),
        ("why", found.why),
        ("agent", "running" if found.is_running else "not running"),
        ("phase", found.phase),
        ("job", job),
        ("done", done),
        ("last receipt", receipt),
        ("outbox", ", ".join(f"{n_bytes} bytes" for n_bytes in found.outbox_bytes) or "empty"),
        ("bundles", _bundles(found)),
        ("certificate", end),
        ("left out", "none" if refused is None else f"{refused.task} round {refused.round}: {refused.why}"),
        ("examples", found.examples_paid or "no noisy training yet, and no bound of its own"),
    ]


def _bundles(found: Status) -> str:
    here = [
        name[:-52] if one is not None and name.endswith(one) else f"{name} {(one or 'missing')[:12]}"
        for name, one in found.bundles.items()
    ]
    fetching = [f"{one[:12]} is being fetched: {n / 1e6:.1f} MB" for one, n in found.fetching_bytes.items()]
    return ", ".join(here + fetching) or "none yet"


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s))
