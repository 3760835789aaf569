"""The engine port: what a trainer needs of an ML runtime, and the table of the runtimes that there are.

Laws: an engine is a function of (flat adapter, batch) and keeps no training state, so that optimisers, clipping and
privacy stay functions on vectors outside of it; no exception of a runtime leaves its engine's file; only the engine
that a job names is imported, since their wheels exclude each other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, Protocol, cast

from protocol.errors import BundleError, ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch
    from host.base_change import ChangedBase
    from protocol.bundle import Manifest

__all__ = ["PORTABLE", "Engine", "ExampleEngine", "open_engine"]

PORTABLE: Final = "portable"
_MODULES: Final = {
    PORTABLE: "edge_agent.trainer.portable",
    "ort-training": "edge_agent.trainer.ort_training",
    "litert": "edge_agent.trainer.litert",
}
_TAKES_BASE: Final = frozenset({"portable"})  # the other two have their weights in files of their own


class Engine(Protocol):
    """Loss, gradient and scores of one bundle."""

    def loss_and_gradient(self, theta: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float32]]:
        """Return the mean loss over ``batch`` and its gradient, float32 [n_params].

        Args:
            theta: the adapter, float32 [n_params]; it is not kept and not changed.
            batch: the task's inputs and targets by name, such as ``input_ids``, ``attention_mask`` int64 [batch, seq]
                and ``labels`` int64 [batch].

        Raises:
            BundleError: the training graph cannot be loaded.
            ConfigError: theta or the batch does not fit the graph.
            EngineError: the runtime failed, for instance for want of memory.
        """

    def scores(self, theta: NDArray[np.float32], batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Return what the evaluation graph gives, by name and in no order; labels are not looked at.

        Raises:
            BundleError, ConfigError, EngineError: as ``loss_and_gradient``.
        """


class ExampleEngine(Protocol):
    """What tells the gradients of single examples apart; of a bundle whose manifest names a graph for it."""

    def clipped_points(
        self, theta: NDArray[np.float32], batch: Batch, *, counts: NDArray[np.float32], clip: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        """Return losses and norms, float32 [batch], and the clipped sum, int32 [n_params] (``protocol.per_example``).

        Args:
            theta: as ``Engine.loss_and_gradient``.
            batch: likewise.
            counts: float32 [batch], zero for an example that is to have no part in the sum.
            clip: the largest L2 norm of an example's gradient.

        Raises:
            BundleError, ConfigError, EngineError: as ``Engine.loss_and_gradient``.
        """


def open_engine(
    name: str, folder: Path, manifest: Manifest, *, threads: int, base: ChangedBase | None = None
) -> Engine:
    """Return the engine ``name`` on a bundle whose files were checked, with ``base`` in the place of its own weights.

    Raises:
        BundleError: the bundle has no graphs for this engine.
        ConfigError: this engine cannot change base weights.
        EngineError: this environment does not have the engine's runtime.
    """
    if name not in manifest.engines:
        raise BundleError(
            f"{folder}: the bundle has no graphs for the engine {name!r}; it has {', '.join(sorted(manifest.engines))}"
        )
    if base is not None and name not in _TAKES_BASE:
        raise ConfigError(f"the engine {name!r} cannot change base weights; {', '.join(sorted(_TAKES_BASE))} can")
    if name not in _MODULES:
        raise EngineError(f"no engine is called {name!r}; there are {', '.join(_MODULES)}")
    try:
        module = importlib.import_module(_MODULES[name])
    except ImportError as error:
        why = " ".join(str(error).strip().splitlines()[-1:])  # numpy explains itself over a page
        raise EngineError(f"the engine {name!r} cannot be loaded, for want of it or of memory: {why}") from error
    open_ = cast("Callable[..., Engine]", module.open_engine)
    return open_(folder, manifest, threads=threads, **({} if base is None else {"base": base}))
