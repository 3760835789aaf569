"""The engine ``ort-training``: onnxruntime-training 1.19, which derives the backward from the bundle's forward itself.

The flat adapter is the training model's one parameter, so what the runtime accumulates for it is the flat gradient; its
own optimiser is not used. An evaluation needs no training and takes the portable graph, which this wheel's ordinary
sessions run too.

Laws: never loads torch, though the wheel's own package would; no exception of the runtime leaves this file.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from host.bare_import import import_bare
from protocol.errors import BundleError, ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch
    from protocol.bundle import Manifest

__all__ = ["ENGINE", "THETA", "OrtTrainingEngine", "open_engine"]

ENGINE: Final = "ort-training"
THETA: Final = "theta"  # the parameter's name in training model and checkpoint
_PROVIDERS: Final = ["CPUExecutionProvider"]
_ERRORS_ONLY: Final = 3

# First: onnxruntime itself would import its training package whole, and onnx with it.
api = import_bare("onnxruntime.training", "onnxruntime.training.api")
ort = import_bare("onnxruntime.training", "onnxruntime")


def open_engine(folder: Path, manifest: Manifest, *, threads: int) -> OrtTrainingEngine:
    """Return the engine of a bundle whose files were checked and whose manifest names this engine.

    Raises:
        BundleError: the manifest has no checkpoint for it.
    """
    files = manifest.engines[ENGINE]
    if files.checkpoint is None:
        raise BundleError(f"{folder}: the engine {ENGINE!r} needs a checkpoint")
    return OrtTrainingEngine(
        train=folder / files.train,
        evaluate=folder / files.evaluate,
        checkpoint=folder / files.checkpoint,
        threads=threads,
    )


class OrtTrainingEngine:
    """Implements ``edge_agent.trainer.engines.Engine``."""

    def __init__(self, *, train: Path, evaluate: Path, checkpoint: Path, threads: int) -> None:
        """Keep the paths; nothing is loaded yet."""
        self._train_path, self._evaluate_path, self._checkpoint, self._threads = train, evaluate, checkpoint, threads
        self._module: Any = None
        self._state: Any = None
        self._session: Any = None

    def loss_and_gradient(self, theta: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float32]]:
        """Return the mean loss and its gradient, as the port says."""
        if self._module is None:
            self._load()
        names = self._module.input_names()
        _refuse_misfit(theta, self._module.get_parameters_size(trainable_only=True), names, batch)
        with _translated("a batch", EngineError):
            self._state.parameters[THETA] = theta
            self._module.lazy_reset_grad()  # the runtime adds gradients up; each step here is one batch's own
            loss = self._module(*(batch[name] for name in names))
            gradient: NDArray[np.float32] = self._state.parameters[THETA].grad.copy()
        return float(loss), gradient

    def scores(self, theta: NDArray[np.float32], batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Return what the evaluation graph gives, as the port says."""
        if self._session is None:
            with _translated(self._evaluate_path.name, BundleError):
                self._session = ort.InferenceSession(str(self._evaluate_path), self._options(), providers=_PROVIDERS)
        inputs = self._session.get_inputs()
        n_params = next(value.shape[0] for value in inputs if value.name == THETA)
        names = [value.name for value in inputs if value.name != THETA]
        _refuse_misfit(theta, n_params, names, batch)
        outputs = [value.name for value in self._session.get_outputs()]
        with _translated("a batch", EngineError):
            found = self._session.run(outputs, {THETA: theta, **{name: batch[name] for name in names}})
        return dict(zip(outputs, found, strict=True))

    def _load(self) -> None:
        with _translated(self._checkpoint.name, BundleError):
            self._state = api.CheckpointState.load_checkpoint(str(self._checkpoint))
            if THETA not in self._state.parameters:
                raise BundleError(f"{self._checkpoint.name}: has no parameter {THETA}")
        with _translated(self._train_path.name, BundleError):
            self._module = api.Module(str(self._train_path), self._state, session_options=self._options())

    def _options(self) -> Any:  # noqa: ANN401 - a class of a wheel without types
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.enable_mem_pattern = False  # as in the portable engine: less memory, no time
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options


def _refuse_misfit(theta: NDArray[np.float32], n_params: int, names: list[str], batch: Batch) -> None:
    # The runtime copies a parameter without looking at its length.
    if theta.dtype != "float32" or theta.shape != (n_params,):
        raise ConfigError(f"theta is {theta.dtype} {list(theta.shape)}, expected float32 [{n_params}]")
    missing = sorted(set(names) - set(batch))
    if missing:
        raise ConfigError(f"a batch has no {', '.join(missing)}")


@contextlib.contextmanager
def _translated(what: str, blame: type[BundleError | EngineError]) -> Iterator[None]:
    """Turn the runtime's exceptions, which are RuntimeError or its own children of Exception, into ours."""
    try:
        yield
    except (BundleError, ConfigError, EngineError):
        raise
    except MemoryError as error:
        raise EngineError(f"{what}: out of memory") from error
    except Exception as error:
        lines = str(error).strip().splitlines()
        ours = ConfigError if type(error).__name__ == "InvalidArgument" and blame is EngineError else blame
        raise ours(f"{what}: onnxruntime: {lines[0][:300] if lines else type(error).__name__}") from error
