"""Makes the message that carries a finished update: encoded by the trainer, sealed to the task's key, signed here.

Law: each call draws a new update id, so call it once for a training and keep what it returns before anything is sent.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from protocol.messages import Update, UpdateContent, pack_content
from protocol.sealing import binding, seal
from protocol.signing import sign

if TYPE_CHECKING:
    from protocol.jobs import TrainResult
    from protocol.messages import Work
    from protocol.metrics import MetricName
    from protocol.signing import SigningKey

__all__ = ["seal_update"]

_UPDATE_ID_BYTES: Final = 16


def seal_update(  # noqa: PLR0913 - what is sealed, and whom it is of
    work: Work,
    result: TrainResult,
    delta: bytes,
    *,
    fleet: str,
    device: str,
    key: SigningKey,
    metrics: dict[MetricName, float] | None = None,
) -> tuple[bytes, bytes]:
    """Return a new update id and the signed envelope for ``delta``, the trainer's payload, and ``metrics``."""
    update_id = os.urandom(_UPDATE_ID_BYTES)
    content = UpdateContent(
        n_examples=result.n_examples,
        n_steps=result.n_steps,
        loss=0.0 if work.plan.dp is not None else result.loss,  # the noise does not cover it
        train_s=result.train_s,
        delta=delta,
        metrics=metrics,
    )
    info = binding(
        fleet=fleet,
        task=work.task,
        bundle_id=work.bundle_id,
        round_=work.round,
        version=work.version,
        device=device,
        update_id=update_id,
    )
    update = Update(
        task=work.task,
        round=work.round,
        version=work.version,
        bundle_id=work.bundle_id,
        update_id=update_id,
        sealed=seal(pack_content(content), public_raw=work.task_key, info=info),
    )
    return update_id, sign(update, fleet=fleet, sender=device, key=key)
