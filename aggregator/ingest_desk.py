"""``edgefold serve workers``: the ingest workers, and what waits for the service. Works beside a running service."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from aggregator.adapters.sql_staging import SqlStaging
from aggregator.folders import Folders
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.config import Config
    from aggregator.core.staging import WorkerRecord

__all__ = ["print_workers"]


def print_workers(config: Config, *, as_json: bool) -> None:
    """Print one line for each worker that the settings name.

    Raises:
        ConfigError: the settings name none (the user's fault).
        StorageError: the database cannot be read.
    """
    if not config.ingest.names:
        raise ConfigError("ingest: the settings name no workers; the service takes updates in by itself")
    with closing(SqlStaging(Folders.of(config).database)) as staging:
        seen = {one.worker: one for one in staging.workers()}
        n_waiting = staging.n_waiting()
    facts = list(_facts(config.ingest.names, seen, now_unix_s=time.time()))
    if as_json:
        return click.echo(json.dumps({"workers": facts, "staged": n_waiting}, indent=2))
    for one in facts:
        ago = "never seen" if one["seen_s_ago"] is None else f"seen {one['seen_s_ago']:.0f} s ago"
        click.echo(f"{one['worker']:<34}{ago:<20}{one['staged']} updates staged since its start")
    return click.echo(f"{n_waiting} updates wait for the service")


def _facts(names: tuple[str, ...], seen: dict[str, WorkerRecord], *, now_unix_s: float) -> Iterator[dict[str, Any]]:
    for name in names:
        one = seen.get(name)
        ago_s = None if one is None else max(0.0, now_unix_s - one.seen_unix_s)
        yield {"worker": name, "seen_s_ago": ago_s, "staged": 0 if one is None else one.n_staged}
