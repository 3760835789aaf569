"""What a device serves: for each task the newest adapter version that the service handed to it, with its plan.

    served-<task>.cbor   the body of the last believed ``Work`` of a task, in the agent's folder

Laws: written by the agent alone, after the work's signature held; readers are other processes, which see a whole file
or the one before (``host.durable``). The service hands out what it has promoted, so this is the newest promoted version
that this device has heard of; a device that was in no later round does not know a later version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from host.durable import read_bytes, write_bytes
from protocol.errors import MalformedMessageError, StorageError
from protocol.messages import MAX_MESSAGE_BYTES, Work, pack_body, unpack_body

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Mark", "keep_served", "mark_of", "newest_served", "read_work", "task_of"]

_PREFIX: Final = "served-"
Mark: TypeAlias = tuple[str, int, int]


def keep_served(folder: Path, work: Work) -> None:
    """Make ``work`` what is served of its task from now on."""
    write_bytes(folder / f"{_PREFIX}{work.task}.cbor", pack_body(work))


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
