"""Tells the outputs of the evaluation graph in plain values: labels with probabilities, or forecasts.

Laws: probabilities are a softmax in float64 over all labels; at most ``_MAX_TOLD`` of them are told, the highest, so
that an answer is bounded; what is not finite is the model's fault and an ``EngineError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from protocol.errors import BundleError, EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["probabilities", "tell"]

_MAX_TOLD: Final = 10


def tell(
    outputs: Mapping[str, NDArray[np.float32]], *, firsts: Sequence[NDArray[np.int64]], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Return for each input what the model says of it, ready for JSON.

    Args:
        outputs: of the evaluation graph, by name.
        firsts: of each input the positions to tell of, where the task labels words; otherwise empty.
        labels: names of the labels; numbers stand in for missing ones.

    Raises:
        BundleError: the graph gives neither logits nor forecasts.
        EngineError: an output is not finite.
    """
    if "forecasts" in outputs:
        told = [{"forecast": one.tolist()} for one in _finite(outputs["forecasts"])]  # [horizon, channel]
        # Where the model says how sure it is: [horizon, channel, level], of evenly spaced levels.
        for one, quantiles in zip(told, _finite(outputs["quantiles"]) if "quantiles" in outputs else (), strict=False):
            one["quantiles"] = quantiles.tolist()
        return told
    if "logits" not in outputs:
        raise BundleError(f"the evaluation graph gives {', '.join(outputs)}; expected logits or forecasts")
    shares = probabilities(_finite(outputs["logits"]))  # [batch, n_labels] or [batch, seq, n_labels]
    if shares.ndim == 2:
        return [_told(one, labels) for one in shares]
    return [{"words": [_told(one[at], labels) for at in where]} for one, where in zip(shares, firsts, strict=True)]


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the softmax over the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers: NDArray[np.float64] = np.exp(shifted)
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _told(shares: NDArray[np.float64], labels: Sequence[str]) -> dict[str, Any]:
    order = np.argsort(-shares, kind="stable")[:_MAX_TOLD].tolist()
    names = {i: labels[i] if i < len(labels) else str(i) for i in order}
    told = {names[i]: round(float(shares[i]), 6) for i in order}
    return {"label": order[0], "name": names[order[0]], "probabilities": told}


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise EngineError("the model's output is not finite: the adapter has diverged")
    return values
