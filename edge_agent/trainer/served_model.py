"""One model ready to answer: a checked bundle, an adapter version with this device's personal part, and an engine.

Laws: immutable once made, so that a request which has it keeps it to its end while a newer one takes its place; the
adapter is exactly what local training of that version would begin with (``selected.starting_point``), plus the personal
delta. Memory: the runtime, the activations of one batch, and two adapters (with a base change, the changed weights too)
while one replaces the other.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge_agent.trainer.engines import Engine, open_engine
from edge_agent.trainer.inputs import InputReader
from edge_agent.trainer.predictions import tell
from edge_agent.trainer.received import received
from edge_agent.trainer.selected import starting_point
from host.arrays import load_vector
from host.bundle_folder import Bundle, open_bundle
from protocol.bundle import ADAPTER
from protocol.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.trainer.received import Received
    from protocol.messages import Work

__all__ = ["ServedModel", "load_model"]

_ENGINE: Final = "portable"  # in this process; the other engines need interpreters of their own
_MAX_TOKENS: Final = 64  # of a bundle that no plan has come for: ``Plan.max_tokens``


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """See the module; ``task`` is None and ``version`` 0 for a bundle's own, untrained adapter."""

    bundle: Bundle
    engine: Engine
    reader: InputReader
    max_tokens: int
    theta: NDArray[np.float32]  # [n_params]
    task: str | None
    version: int
    is_personal: bool
    has_base_change: bool  # its engine has weights of this version alone
    turn: threading.Lock  # one batch at a time: memory is that of one

    def answer(self, inputs: Sequence[Any], *, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return what the model says of each input, with the bundle's own names of labels where none are given.

        Raises:
            ConfigError: an input is not what the task takes.
            BundleError, EngineError: the graph or the runtime failed.
        """
        batch, firsts = self.reader.batch(inputs)
        with self.turn:
            outputs = self.engine.scores(self.theta, batch)
        return tell(outputs, firsts=firsts, labels=labels or self.bundle.manifest.task.label_names or ())


def load_model(
    folder: Path,
    work: Work | None,
    *,
    kept: Path | None,
    personal: Path | None,
    threads: int,
    known: ServedModel | None = None,
) -> ServedModel:
    """Return the model of a bundle's folder at the adapter that ``work`` brought.

    Args:
        folder: the bundle's.
        work: the newest of its task; None for the bundle's own adapter.
        kept: raw float32 [n_params], what the last accepted round left on the device where the strategy keeps a part.
        personal: raw float32 [n_params], what local training adds; None for none.
        threads: of the engine.
        known: the model before: if it is of the same bundle, its engine and checked files are used again.

    Raises:
        BundleError: the bundle is not what it says, or has no graphs for this process.
        ConfigError, StorageError, UpdateError, EngineError: the task has no predictions, a file or the adapter is bad.
    """
    max_tokens = _MAX_TOKENS if work is None else work.plan.max_tokens
    is_same = known is not None and work is not None and known.bundle.id == work.bundle_id
    bundle = (
        known.bundle
        if known is not None and is_same
        else open_bundle(folder, expected_id=None if work is None else work.bundle_id)
    )
    if _ENGINE not in bundle.manifest.engines:
        raise BundleError(f"{folder}: no graphs for the engine {_ENGINE!r}; export the bundle again with it")
    given = None if work is None else received(bundle, work.adapter, work.plan.terms)
    theta, is_personal = _theta(bundle, work, given, kept=kept, personal=personal)
    base = None if given is None else given.base
    if known is not None and is_same and base is None and not known.has_base_change:
        engine, turn = known.engine, known.turn
    else:
        engine = open_engine(_ENGINE, folder, bundle.manifest, threads=threads, base=base)
        turn = threading.Lock()
    keeps_reader = known is not None and is_same and known.max_tokens == max_tokens
    reader = known.reader if known is not None and keeps_reader else InputReader(bundle, max_tokens=max_tokens)
    return ServedModel(
        bundle=bundle,
        engine=engine,
        reader=reader,
        max_tokens=max_tokens,
        theta=theta,
        task=None if work is None else work.task,
        version=0 if work is None else work.version,
        is_personal=is_personal,
        has_base_change=base is not None,
        turn=turn,
    )


def _theta(
    bundle: Bundle, work: Work | None, given: Received | None, *, kept: Path | None, personal: Path | None
) -> tuple[NDArray[np.float32], bool]:
    n_params = bundle.layout.n_params
    if work is None or given is None:
        theta, is_kept = load_vector(bundle.path(ADAPTER), n_values=n_params), False
    else:
        own = None if kept is None else load_vector(kept, n_values=n_params)
        theta = starting_point(given.adapter[:n_params], bundle.layout, work.plan.terms, kept=own)
        is_kept = own is not None and work.plan.terms is not None and bool(work.plan.terms.personal_roles)
    if personal is not None:
        theta = theta + load_vector(personal, n_values=n_params)
    return theta, is_kept or personal is not None
