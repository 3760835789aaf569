"""What a device serves: for each task the newest adapter version that the service handed to it, with its plan.

    served-<task>.cbor   the body of the last believed ``Work`` of a task, in the agent's folder

Laws: written by the agent alone, after the work's signature held; readers are other processes, which see a whole file
or the one before (``host.durable``). The service hands out what it has promoted, so this is the newest promoted version
that this device has heard of; a device that was in no later round does not know a later version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from host.durable import read_bytes, write_bytes
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import MalformedMessageError, StorageError
from protocol.messages import Work, pack_body, unpack_body

if TYPE_CHECKING:
    from pathlib import Path

    from protocol.messages import Latest

__all__ = [
    "Mark",
    "keep_fetched",
    "keep_served",
    "mark_of",
    "newest_served",
    "read_work",
    "served_version",
    "task_of",
]

_PREFIX: Final = "served-"
PUBLIC_KEY_BYTES: Final = 1216  # ``sealing.PUBLIC_KEY_BYTES``, whose module costs readers of this one memory
Mark: TypeAlias = tuple[str, int, int]


def keep_served(folder: Path, work: Work) -> None:
    """Make ``work`` what is served of its task from now on."""
    write_bytes(folder / f"{_PREFIX}{work.task}.cbor", pack_body(work))


def keep_fetched(folder: Path, latest: Latest, adapter: bytes) -> None:
    """Make a fetched version what is served of its task from now on; no round can be trained on it."""
    work = Work(
        task=latest.task,
        round=1,
        version=latest.version,
        bundle_id=latest.bundle_id,
        plan=latest.plan,
        adapter=adapter,
        task_key=bytes(PUBLIC_KEY_BYTES),
        seconds_left=0.0,
    )
    keep_served(folder, work)


def served_version(folder: Path, task: str, bundle_id: str) -> int:
    """Return which version of a task's bundle is served, 0 for the bundle's own."""
    path = newest_served(folder, task)
    try:
        work = None if path is None else read_work(path)
    except StorageError:
        return 0  # damaged: the next version takes its place
    return work.version if work is not None and work.bundle_id == bundle_id else 0


def newest_served(folder: Path, task: str | None) -> Path | None:
    """Return the file of ``task``, or of whichever task brought work last; None if there is none."""
    paths = list(folder.glob(f"{_PREFIX}*.cbor")) if task is None else [folder / f"{_PREFIX}{task}.cbor"]
    found = [(mark[1], path) for path in paths if (mark := mark_of(path)) is not None]
    return max(found)[1] if found else None


def task_of(path: Path) -> str:
    """Return the task of a file that ``newest_served`` found."""
    return path.name.removeprefix(_PREFIX).removesuffix(".cbor")


def mark_of(path: Path) -> Mark | None:
    """Return what changes when the file does: name, time of change in ns and length; None if it is not there."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return path.name, facts.st_mtime_ns, facts.st_size


def read_work(path: Path) -> Work:
    """Return the work in ``path``, which the agent wrote.

    Raises:
        StorageError: it is missing or damaged.
    """
    try:
        work = unpack_body("work", read_bytes(path, max_bytes=MAX_MESSAGE_BYTES))
    except (FileNotFoundError, MalformedMessageError) as error:
        raise StorageError(f"{path}: missing or damaged") from error
    if not isinstance(work, Work):  # pragma: no cover - kind "work" is Work
        raise StorageError(f"{path}: not work")
    return work
