"""What an ingest worker found of an update, and what the service makes of it: dear checks there, decisions here.

Laws: a worker says what an update *is* (its signature held, it opens, its content is sound, or why not); whether it is
*taken* the service alone says, by the rules of ``core.intake`` and what it knows at that moment, so that no two workers
take an update each. What a worker could not tell it leaves to the service. No IO.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from aggregator.core.intake import Refused, Taken, TakenBefore, welcome
from protocol.errors import RemoteProtocolError
from protocol.messages import Update

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.core.intake import Decision, IntakeContext
    from aggregator.core.opening import Figures
    from protocol.reasons import Reason

__all__ = ["MAX_DETAIL_CHARS", "Found", "Staged", "WorkerRecord", "decide_staged", "find"]

MAX_DETAIL_CHARS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """An update whose signature held. ``blob`` without ``figures``: durable, but the service has to open it.

    Attributes:
        worker: who found this.
        n_bytes: of the whole message and its topic.
        sealed_bytes: of what ``blob`` names.
        blob: the sealed bytes' name; None if it is refused and nothing was kept.
        figures: what is in it, if it is sound.
        reason: why it is refused; None if it is not.
        detail: the same for people.
        number: given by the store, in the order of coming.
    """

    worker: str
    device: str
    update_id: bytes
    task: str
    round: int
    version: int
    bundle_id: str
    n_bytes: int
    sealed_bytes: int
    blob: str | None = None
    figures: Figures | None = None
    reason: Reason | None = None
    detail: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """An ingest worker as it last said while it had the broker; times are seconds of Unix time by its own clock."""

    worker: str
    since_unix_s: float
    seen_unix_s: float
    n_staged: int  # since then


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What there is to keep of one message: a row, and the sealed bytes that it names, if it names any."""

    staged: Staged
    sealed: bytes | None


def find(decision: Decision, *, worker: str, n_bytes: int, is_known: Callable[[str], bool]) -> Found | None:
    """Return what a worker stages after ``decision``; None if there is nobody to answer.

    Args:
        decision: by the rules of ``core.intake``, with what the worker knows.
        worker: its name.
        n_bytes: of the message and its topic.
        is_known: whether the service has a task, which the worker may be unable to open.
    """
    match decision:
        case Taken(device=device, update=Update() as update, figures=figures):
            return _found(device, update, worker, n_bytes, figures=figures)
        case TakenBefore(device=device, update=Update() as update):
            return _found(device, update, worker, n_bytes, reason="replayed", detail="it was taken before")
        case Refused(device=str(device), update=Update() as update) as refused:
            # A key or a task may be newer than what this worker has read: the service looks itself.
            is_open = refused.reason == "bad-seal" or (refused.reason == "wrong-task" and is_known(update.task))
            if is_open:
                return _found(device, update, worker, n_bytes)
            return _found(device, update, worker, n_bytes, reason=refused.reason, detail=refused.detail)
        case _:
            return None


def decide_staged(staged: Staged, context: IntakeContext) -> Decision:
    """Return what to do with a staged update that has figures or a reason."""
    device = staged.device
    try:
        view = welcome(device, staged, context, sealed_bytes=staged.sealed_bytes)
    except RemoteProtocolError as error:
        return Refused(reason=cast("Reason", error.reason), detail=str(error), device=device, update=staged)
    if isinstance(view, TakenBefore):
        return view
    if staged.reason is not None or staged.figures is None:
        reason: Reason = staged.reason or "malformed"
        return Refused(reason=reason, detail=staged.detail, device=device, update=staged)
    return Taken(device=device, update=staged, figures=staged.figures)


def _found(  # noqa: PLR0913 - what a row has
    device: str,
    update: Update,
    worker: str,
    n_bytes: int,
    *,
    figures: Figures | None = None,
    reason: Reason | None = None,
    detail: str = "",
) -> Found:
    is_kept = reason is None
    staged = Staged(
        worker=worker,
        device=device,
        update_id=update.update_id,
        task=update.task,
        round=update.round,
        version=update.version,
        bundle_id=update.bundle_id,
        n_bytes=n_bytes,
        sealed_bytes=len(update.sealed),
        blob=hashlib.sha256(update.sealed).hexdigest() if is_kept else None,
        figures=figures,
        reason=reason,
        detail=detail[:MAX_DETAIL_CHARS],
    )
    return Found(staged=staged, sealed=update.sealed if is_kept else None)
