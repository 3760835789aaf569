"""Settings of tasks that come by command: read from a file, kept as canonical JSON, read back from the database."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from aggregator.config import TaskSettings, resolve_task
from aggregator.core.records import CreatedTask
from host.config import load
from protocol.errors import ConfigError, StorageError
from protocol.fields import FieldError, plain, structure

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load_task", "to_record", "to_settings", "with_created"]


def load_task(path: Path) -> TaskSettings:
    """Return the task in ``path``: the keys of a ``[[task]]`` table at top level, paths relative to the file's folder.

    Raises:
        ConfigError: see ``host.config.load`` (the user's fault).
    """
    return resolve_task(load(TaskSettings, path), path.resolve().parent)


def to_record(settings: TaskSettings, *, unix_s: float) -> CreatedTask:
    """Return what is kept of a task's settings."""
    text = json.dumps(plain(settings), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return CreatedTask(task=settings.id, settings=text, digest=digest, created_unix_s=unix_s)


def to_settings(record: CreatedTask) -> TaskSettings:
    """Return the settings again.

    Raises:
        StorageError: they were changed, or written by an edgefold with other settings.
    """
    if hashlib.sha256(record.settings.encode()).hexdigest() != record.digest:
        raise StorageError(f"task {record.task}: its settings in the database are not what they were")
    try:
        return structure(TaskSettings, json.loads(record.settings), lenient_floats=True)
    except (FieldError, ValueError) as error:
        raise StorageError(f"task {record.task}: its settings in the database: {error}") from error


def with_created(tasks: tuple[TaskSettings, ...], created: tuple[CreatedTask, ...]) -> tuple[TaskSettings, ...]:
    """Return the configuration's tasks and then the created ones.

    Raises:
        ConfigError: one id in both (the user's fault).
        StorageError: see ``to_settings``.
    """
    both = sorted({task.id for task in tasks} & {one.task for one in created})
    if both:
        raise ConfigError(f"task {both[0]}: it is in the configuration and was also created by command; rename one")
    return (*tasks, *(to_settings(one) for one in created))
