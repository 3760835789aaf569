"""Opens one sealed update and looks whether its content is sound: what costs, and asks nobody what was decided before.

Laws: nothing is decoded that is longer than its bound; what comes out is finite, of the right length and no longer than
the plan's clip. No IO. Memory: one update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aggregator.core.blocked import squared_norm
from aggregator.core.bounds import max_update_norm
from protocol import codec, sealing
from protocol.errors import RemoteProtocolError
from protocol.messages import unpack_content

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.messages import Update, UpdateContent
    from protocol.plan import Plan
    from protocol.sealing import TaskKey

__all__ = ["Figures", "check_bounds", "figures_of", "open_delta"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is kept of an update's content beside its sealed bytes."""

    n_examples: int
    loss: float
    train_s: float
    payload_bytes: int  # the encoded delta
    metrics: Mapping[str, float] = field(default_factory=dict)  # what the device told of how it learns


def figures_of(content: UpdateContent) -> Figures:
    """Return the figures in an opened update."""
    return Figures(
        n_examples=content.n_examples,
        loss=content.loss,
        train_s=content.train_s,
        payload_bytes=len(content.delta),
        metrics={str(name): value for name, value in (content.metrics or {}).items()},
    )


def open_delta(
    update: Update, *, fleet: str, device: str, key: TaskKey, n_params: int, max_bytes: int
) -> tuple[UpdateContent, codec.EncodedVector]:
    """Return what a sealed update holds: its figures and the delta, float32 [n_params], checked and still encoded.

    Raises:
        RemoteProtocolError: ``bad-seal``, ``malformed``, ``oversize``, ``wrong-shape``, ``not-finite`` or
            ``bad-encoding`` (the peer's fault).
    """
    info = sealing.binding(
        fleet=fleet,
        task=update.task,
        bundle_id=update.bundle_id,
        round_=update.round,
        version=update.version,
        device=device,
        update_id=update.update_id,
    )
    content = unpack_content(key.open(update.sealed, info=info), max_bytes=max_bytes)
    return content, codec.read(content.delta, n_values=n_params)


def check_bounds(content: UpdateContent, delta: codec.EncodedVector, *, plan: Plan, max_examples: int) -> None:
    """Return if the delta is as short, and the examples as few, as the task asks.

    Raises:
        RemoteProtocolError: ``norm-exceeded`` or ``bad-examples`` (the peer's fault).
    """
    norm = math.sqrt(squared_norm(delta))
    bound = max_update_norm(plan, delta.size)
    if norm > bound:
        raise RemoteProtocolError(f"a delta of norm {norm:.4g}, at most {bound:.4g} is taken", reason="norm-exceeded")
    if content.n_examples > max_examples:
        raise RemoteProtocolError(
            f"{content.n_examples} examples, at most {max_examples} are taken", reason="bad-examples"
        )
