"""``edgefold serve gc``: what is stored, and what goes.

Laws: nothing is taken out but under the service's lock, so that no blob is just being put; looking needs no lock.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Final

import click

from aggregator.adapters.sql_facts import SqlFacts
from aggregator.adapters.sql_lifecycle import SqlLifecycle
from aggregator.adapters.sql_reader import SqlReader
from aggregator.adapters.sql_retention import SqlRetention
from aggregator.adapters.sql_staging import SqlStaging
from aggregator.blob_place import open_blobs
from aggregator.created_tasks import with_created
from aggregator.folders import Folders, upgrade
from aggregator.retention import Retention
from aggregator.sole_service import hold_folder
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from aggregator.config import Config, TaskSettings

__all__ = ["print_gc"]

_HINT: Final = "; it tidies up by itself after every round and at its start. To look: --dry-run"


class _Desk:
    def __init__(self, config: Config, folders: Folders, stack: ExitStack) -> None:
        self._store = SqlReader(folders.database)
        stack.callback(self._store.close)
        lifecycle = SqlLifecycle(folders.database)
        stack.callback(lifecycle.close)
        rows = SqlRetention(folders.database)
        stack.callback(rows.close)
        self._staging = stack.enter_context(closing(SqlStaging(folders.database)))
        self._keeps_updates = config.service.keep_folded_updates
        self.blobs = stack.enter_context(closing(open_blobs(folders.blobs)))
        self._tasks: tuple[TaskSettings, ...] = with_created(config.task, lifecycle.created())
        self._retention = Retention(
            rows,
            store=self._store,
            lifecycle=lifecycle,
            blobs=self.blobs,
            default=config.service.retention,
            keep_folded_updates=self._keeps_updates,
        )

    def look(self) -> dict[str, Any]:
        sizes, named = self.blobs.sizes(), self._store.blobs_in_use(keep_folded=self._keeps_updates)
        return {
            "blobs": len(sizes),
            "blob_bytes": sum(sizes.values()),
            "unnamed_blobs": len(sizes.keys() - named),
            "tasks": [self._facts(one) for one in self._tasks if self._store.task(one.id) is not None],
        }

    def collect(self) -> int:
        for one in self._tasks:
            while self._retention.tidy(one):
                pass
        with self._staging.sweeping():  # not while an ingest worker puts one
            return self.blobs.keep_only(self._store.blobs_in_use(keep_folded=self._keeps_updates))

    def _facts(self, settings: TaskSettings) -> dict[str, Any]:
        task = settings.id
        versions_due, rounds_due = self._retention.due(settings)
        return {
            "task": task,
            "versions": len(self._store.versions(task)),
            "versions_due": versions_due,
            "rounds": len(self._store.rounds(task)),
            "rounds_due": rounds_due,
        }


def print_gc(config: Config, *, is_dry: bool, as_json: bool) -> None:
    """Print what is stored and, unless ``is_dry``, take out what is due.

    Raises:
        ConfigError: no service has run here yet, or one runs and ``is_dry`` is false (the user's fault).
        StorageError: the database or the blobs cannot be read or written.
    """
    folders = Folders.of(config)
    if not folders.has_database:
        raise ConfigError(f"{folders.root}: no service has run here yet, nothing is stored")
    with ExitStack() as stack:
        if not is_dry:
            hold_folder(folders.root, stack, hint=_HINT)
            upgrade(folders.database)
        desk = _Desk(config, folders, stack)
        if not is_dry:
            with closing(SqlFacts(folders.database)) as facts:
                facts.own(desk.blobs)
        before = desk.look()
        if not is_dry:
            desk.collect()
        after = desk.look()
    if as_json:
        return click.echo(json.dumps({"before": before, "after": after, "is_dry_run": is_dry}, indent=2))
    for one in after["tasks"]:
        due = f", {one['versions_due']} and {one['rounds_due']} to go" if is_dry else ""
        click.echo(f"task {one['task']}: {one['versions']} versions, {one['rounds']} rounds{due}")
    n_bytes = after["blob_bytes"]
    if is_dry:
        return click.echo(f"{after['blobs']} blobs, {n_bytes} bytes, {after['unnamed_blobs']} of them named by nothing")
    gone = before["blobs"] - after["blobs"]
    return click.echo(
        f"{after['blobs']} blobs, {n_bytes} bytes; {gone} blobs, {before['blob_bytes'] - n_bytes} bytes went"
    )
