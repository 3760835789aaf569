"""The paths of predictions: ``POST /predict`` and ``GET /health``.

    POST /predict   {"inputs": [input, ...]} or one input   -> {"predictions": [...], "model": {...}, "took_ms": ...}
    GET  /health    -> {"model": {...} or null, "latency": {"n", "p50_ms", "p95_ms"} or null, "answers", "exchanges"}

An input is what ``trainer.inputs`` says.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from protocol.errors import ConfigError
from protocol.fields import plain

if TYPE_CHECKING:
    from edge_agent.local.loopback_http import Asked, Routes
    from edge_agent.local.serving import Serving

__all__ = ["inputs_of", "prediction_routes"]


def prediction_routes(serving: Serving, *, max_inputs: int) -> Routes:
    """Return the routes by which programs on this machine ask ``serving``."""

    def predict(asked: Asked) -> dict[str, Any]:
        answers = serving.answer(inputs_of(asked.body, max_inputs=max_inputs))
        return {"predictions": answers.predictions, "model": asdict(answers.served), "took_ms": answers.took_ms}

    def health(_asked: Asked) -> dict[str, Any]:
        served, latency = serving.served(), serving.latency.percentiles()
        return {
            "model": None if served is None else asdict(served),
            "latency": None if latency is None else plain(latency),
            "answers": serving.n_answers,
            "exchanges": serving.n_exchanges,
        }

    return {("POST", "/predict"): predict, ("GET", "/health"): health}


def inputs_of(body: Any, *, max_inputs: int) -> list[Any]:  # noqa: ANN401 - whatever was sent
    """Return the inputs of a request.

    Raises:
        ConfigError: there are none, or too many (the asker's fault).
    """
    if not isinstance(body, dict):
        raise ConfigError(f"expected an input or inputs in an object, got {type(body).__name__}")
    inputs = body.get("inputs", [body])
    if not isinstance(inputs, list) or not 0 < len(inputs) <= max_inputs:
        raise ConfigError(f"inputs: expected 1 to {max_inputs} of them (predict.max_inputs)")
    return inputs
