"""Runs an ONNX graph in onnxruntime, to hold what was written against PyTorch; no exception of its leaves this file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from host.base_change import Weights
from protocol.errors import EngineError

__all__ = ["Graph"]


class Graph:
    """A graph that was loaded."""

    def __init__(self, path: Path, weights: Weights | None = None) -> None:
        """Load ``path``, with ``weights`` in the place of its own of those names.

        Raises:
            EngineError: onnxruntime does not take it.
        """
        self._path = path
        options = ort.SessionOptions()
        # Beyond this level a product with few-bit weights is computed in int8, 1e-2 from what the graph says.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self._weights = weights or {}  # the session reads them where they are
        try:
            if self._weights:
                values = [ort.OrtValue.ortvalue_from_numpy(one) for one in self._weights.values()]
                options.add_external_initializers(list(self._weights), values)
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            message = f"{path.name}: onnxruntime does not load it: {str(error).splitlines()[0][:200]}"
            raise EngineError(message) from error

    def run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the graph's first output.

        Raises:
            EngineError: the graph cannot be run on these inputs.
        """
        return self.outputs(inputs, first=True)[0]

    def outputs(self, inputs: dict[str, NDArray[Any]], *, first: bool = False) -> list[NDArray[np.float32]]:
        """Return all outputs in the graph's order, or the ``first`` alone; errors as ``run``."""
        names = {value.name for value in self._session.get_inputs()}
        wanted = [value.name for value in self._session.get_outputs()][: 1 if first else None]
        try:
            found = self._session.run(wanted, {name: value for name, value in inputs.items() if name in names})
        except Exception as error:
            message = f"{self._path.name}: onnxruntime does not run it: {str(error).splitlines()[0][:200]}"
            raise EngineError(message) from error
        results: list[NDArray[np.float32]] = found
        return results
