"""Runs an ONNX graph in onnxruntime, to hold what was written against PyTorch; no exception of its leaves this file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from protocol.errors import EngineError

__all__ = ["Graph"]


class Graph:
    """A graph that was loaded."""

    def __init__(self, path: Path) -> None:
        """Load ``path``.

        Raises:
            EngineError: onnxruntime does not take it.
        """
        self._path = path
        options = ort.SessionOptions()
        # Beyond this level a product with few-bit weights is computed in int8, 1e-2 from what the graph says.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            message = f"{path.name}: onnxruntime does not load it: {str(error).splitlines()[0][:200]}"
            raise EngineError(message) from error

    def run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the graph's first output.

        Raises:
            EngineError: the graph cannot be run on these inputs.
        """
        first = self._session.get_outputs()[0].name
        result: NDArray[np.float32] = self._run([first], inputs)[0]
        return result

    def run_all(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return all outputs by name.

        Raises:
            EngineError: as ``run``.
        """
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, self._run(names, inputs), strict=True))

    def _run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        names = {value.name for value in self._session.get_inputs()}
        try:
            found: list[NDArray[Any]] = self._session.run(
                outputs, {name: value for name, value in inputs.items() if name in names}
            )
        except Exception as error:
            message = f"{self._path.name}: onnxruntime does not run it: {str(error).splitlines()[0][:200]}"
            raise EngineError(message) from error
        return found
