"""What is served now, and how it is exchanged for something newer without a request noticing.

Laws: a request takes the model that is current when it begins and keeps it; the exchange is one assignment, after the
newer model is whole; a newer one that cannot be loaded leaves the present one where it is, and says so once.
The runtime is loaded by the first request, not before. Memory: see ``trainer.served_model``.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent.adapters.device_folder import kept_file, read_state
from edge_agent.adapters.fetched_bundles import whole_folders
from edge_agent.adapters.personal_part import facts_file, personal_facts, personal_file
from edge_agent.adapters.served_work import mark_of, newest_served, read_work, task_of
from edge_agent.local.latency import Latency
from host.logs import event as log
from protocol.errors import ConfigError, EdgefoldError, EngineError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge_agent.adapters.served_work import Mark
    from edge_agent.trainer.served_model import ServedModel
    from protocol.messages import Work

__all__ = ["Answers", "Served", "Serving"]

_LOOK_EVERY_S: Final = 1.0  # for a newer version: three calls of stat(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Which model said it."""

    task: str | None
    version: int
    bundle_id: str
    is_personal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What was said of each input, by which model, in how many ms."""

    predictions: list[dict[str, Any]]
    served: Served
    took_ms: float


class Serving:
    """The current model; may be used from any thread."""

    def __init__(
        self,
        folder: Path,
        *,
        bundles: Mapping[str, str],
        task: str | None = None,
        fetched: Path | None = None,
        labels: Sequence[str] = (),
        threads: int = 1,
    ) -> None:
        """Serve from the agent's ``folder``.

        Args:
            folder: the agent's.
            bundles: folders by id; the first one serves before any work.
            task: of several; None for the one that brought work last.
            fetched: where bundles that come later lie, by their ids.
            labels: names in label order.
            threads: of the engine.
        """
        self._folder, self._bundles, self._task, self._fetched = folder, dict(bundles), task, fetched
        self._labels, self._threads = tuple(labels), threads
        self._model: ServedModel | None = None
        self._marks: tuple[Mark | None, ...] | None = None
        self._loading = threading.Lock()
        self._looked_s = float("-inf")
        self.latency = Latency()
        self.n_answers, self.n_exchanges = 0, 0

    def answer(self, inputs: Sequence[Any], *, is_counted: bool = True) -> Answers:
        """Return what the current model says of ``inputs``; the device's own questions are not counted.

        Raises:
            ConfigError: an input is not what the task takes, or there is no bundle (the asker's or owner's fault).
            BundleError, EngineError, StorageError, UpdateError: the model cannot be loaded or run.
        """
        model = self.current()
        began = time.perf_counter()
        predictions = model.answer(inputs, labels=self._labels)
        took_s = time.perf_counter() - began
        if is_counted:
            self.latency.add(took_s)
            self.n_answers += 1
        return Answers(predictions=predictions, served=_served(model), took_ms=round(1000 * took_s, 3))

    def served(self) -> Served | None:
        """Return what is served now, None before the first request loaded it."""
        return None if self._model is None else _served(self._model)

    def current(self) -> ServedModel:
        """Return the model to use now, a newer one if there is one.

        Raises:
            ConfigError, BundleError, EngineError, StorageError, UpdateError: there is none yet and none can be loaded.
        """
        model = self._model
        if model is not None and time.monotonic() - self._looked_s < _LOOK_EVERY_S:
            return model
        if model is None:
            self._loading.acquire()
        elif not self._loading.acquire(blocking=False):
            return model  # another request looks already
        try:
            return self._exchange()
        finally:
            self._loading.release()

    def _exchange(self) -> ServedModel:
        """Look for something newer; the caller holds the lock."""
        self._looked_s = time.monotonic()
        path = newest_served(self._folder, self._task)
        marks = self._marks_now(path)
        if self._model is not None and marks == self._marks:
            return self._model
        try:
            model = self._load(None if path is None else read_work(path))
        except EdgefoldError as error:
            self._marks = marks  # said once, not at every request
            if self._model is None:
                raise
            log("model-kept", error=str(error))
            return self._model
        self.n_exchanges += self._model is not None
        self._model, self._marks = model, marks
        log("model-served", task=model.task, version=model.version, is_personal=model.is_personal)
        return model

    def _marks_now(self, path: Path | None) -> tuple[Mark | None, ...]:
        if path is None:
            return (None,)
        task = task_of(path)
        kept = self._kept(task)
        return mark_of(path), None if kept is None else mark_of(kept), mark_of(facts_file(self._folder, task))

    def _kept(self, task: str) -> Path | None:
        """Return the file of what the task's strategy left on the device, if there is one."""
        try:
            update_id = read_state(self._folder).kept_of.get(task)
        except StorageError:
            return None
        path = None if update_id is None else kept_file(self._folder, update_id)
        return path if path is not None and path.is_file() else None

    def _personal(self, work: Work) -> Path | None:
        facts = personal_facts(self._folder, work.task)
        is_ours = facts is not None and facts.bundle_id == work.bundle_id
        return personal_file(self._folder, work.task) if is_ours else None

    def _load(self, work: Work | None) -> ServedModel:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy reads it when it loads
        os.environ.setdefault("RAYON_NUM_THREADS", str(self._threads))
        try:
            from edge_agent.trainer.served_model import load_model  # noqa: PLC0415 - the runtime, when first asked
        except ImportError as error:
            raise EngineError(f"the ML runtime cannot be loaded: {error}") from error
        return load_model(
            self._folder_of(work),
            work,
            kept=None if work is None else self._kept(work.task),
            personal=None if work is None else self._personal(work),
            threads=self._threads,
            known=self._model,
        )

    def _folder_of(self, work: Work | None) -> Path:
        if work is not None and work.bundle_id not in self._bundles and self._fetched is not None:
            folder = self._fetched / work.bundle_id
            if folder.is_dir():  # ``open_bundle`` checks that it is that one, every byte
                return folder
        if work is None:
            return self._first_folder()
        if work.bundle_id not in self._bundles:
            raise ConfigError(f"task {work.task}: its bundle {work.bundle_id[:12]} is not on this device")
        return Path(self._bundles[work.bundle_id])

    def _first_folder(self) -> Path:
        """Return the folder of what serves before any work: a bundle of the start, or the first that was fetched."""
        if self._bundles:
            return Path(next(iter(self._bundles.values())))
        fetched = [] if self._fetched is None else whole_folders(self._fetched)
        if not fetched:
            raise ConfigError("there is no bundle yet, so there is nothing to predict with")
        return fetched[0]


def _served(model: ServedModel) -> Served:
    return Served(task=model.task, version=model.version, bundle_id=model.bundle.id, is_personal=model.is_personal)
