"""What a round trains on: a data file, or the store's examples with what the plan asks for against forgetting.

    <agent's folder>/memory-<task>/<stretch>/    anchor.f32, fisher.f32: how a stretch's training ended

Laws: a round under ``plan.continual`` trains on the present stretch and replays what the reservoir kept; any other
trains on both alike; the memory that a round uses is that of the latest stretch before the present one, so the rounds
of a stretch all hold on to the same. Loads SQLite when first asked, and no numpy.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.adapters.example_views import view
from host.durable import make_folder, read_bytes, write_bytes
from host.logs import event as log
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import EdgefoldError
from protocol.jobs import ANCHOR_FILE, FISHER_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from protocol.plan import Plan

__all__ = ["Lesson", "Lessons", "StoreLessons", "forget_memories"]

_PREFIX: Final = "memory-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The paths of one training job."""

    data: str
    replay: str | None = None
    memory: str | None = None


class Lessons:
    """The lessons of a device with one data file."""

    def __init__(self, data: Path) -> None:
        """Train on ``data``, whatever the plan says of earlier examples: it has them all."""
        self._data = data

    @property
    def data(self) -> Path:
        """Where all examples are."""
        return self._data

    def of(self, task: str, plan: Plan) -> Lesson:  # noqa: ARG002 - a store's differ
        """Return what a round of ``task`` trains on."""
        return Lesson(data=str(self._data))

    def learnt(self, task: str, round_: int, out: Path) -> None:
        """Take note that an update of this round was trained; ``out`` is the trainer's folder."""


class StoreLessons(Lessons):
    """The lessons of a device with a store."""

    def __init__(self, store: Path, folder: Path) -> None:
        """Train on the store in ``store``; memories lie in the agent's ``folder``."""
        super().__init__(view(store, "all"))
        self._store, self._folder = store, folder

    def of(self, task: str, plan: Plan) -> Lesson:
        """Return what a round of ``task`` trains on.

        Raises:
            ConfigError, StorageError: the store cannot be read.
        """
        if plan.continual is None:
            return Lesson(data=str(view(self._store, "all")))
        n_replay, stretch = self._counts()
        memory = self._memory_before(task, stretch)
        return Lesson(
            data=str(view(self._store, "train")),
            replay=str(view(self._store, "replay")) if n_replay else None,
            memory=None if memory is None else str(memory),
        )

    def learnt(self, task: str, round_: int, out: Path) -> None:
        """Remember which examples the update may hold, and how the stretch stands."""
        from edge_agent.adapters.example_store import ExampleStore  # noqa: PLC0415

        try:
            store = ExampleStore(self._store)
            store.learnt(task, round_)
            stretch = store.counts().stretch
            store.close()
            if (out / ANCHOR_FILE).is_file():
                self._keep_memory(task, stretch, out)
        except EdgefoldError as error:
            log("lesson-not-noted", task=task, round=round_, error=str(error))

    def _counts(self) -> tuple[int, int]:
        from edge_agent.adapters.example_store import ExampleStore  # noqa: PLC0415

        store = ExampleStore(self._store)
        counts = store.counts()
        store.close()
        return counts.n_replay, counts.stretch

    def _memory_before(self, task: str, stretch: int) -> Path | None:
        folder = self._folder / f"{_PREFIX}{task}"
        found = [int(one.name) for one in folder.glob("*") if one.name.isdecimal() and int(one.name) < stretch]
        return folder / str(max(found)) if found else None

    def _keep_memory(self, task: str, stretch: int, out: Path) -> None:
        keep = make_folder(self._folder / f"{_PREFIX}{task}" / str(stretch))
        for name in (FISHER_FILE, ANCHOR_FILE):
            write_bytes(keep / name, read_bytes(out / name, max_bytes=MAX_MESSAGE_BYTES))
        before = self._memory_before(task, stretch)
        for one in keep.parent.glob("*"):
            if one not in (keep, before):
                shutil.rmtree(one, ignore_errors=True)


def forget_memories(folder: Path) -> int:
    """Remove every memory in the agent's folder, of all tasks; return how many."""
    found = list(folder.glob(f"{_PREFIX}*"))
    for one in found:
        shutil.rmtree(one, ignore_errors=True)
    return len(found)
