"""Whether an upload is worth taking: what can be refused of the whole is refused before its first chunk comes.

Laws: these are the checks that the whole will go through (``core.intake``), on what its manifest says of it; passing
them proves nothing, and the whole goes through all of them again. A device whose round has closed meanwhile hears so
at its next chunk, and not after the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.core.bounds import max_message_bytes
from aggregator.core.intake import addressed, of_this_round
from aggregator.core.rounds import SUM_STATES
from protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from aggregator.core.intake import IntakeContext, TaskView
    from protocol.reasons import Reason
    from protocol.uploads import Upload

__all__ = ["check_upload", "was_taken"]


def was_taken(device: str, upload: Upload, context: IntakeContext) -> bool:
    """Return whether the whole is an update of this device that was taken before."""
    before = context.ledger.taken(upload.update_id)
    if before is None or upload.is_step:
        return False
    return (before.task, before.round, before.device) == (upload.task, upload.round, device)


def check_upload(device: str, upload: Upload, context: IntakeContext) -> None:
    """Return if the whole may be taken, as far as its manifest tells.

    Raises:
        RemoteProtocolError: one of the reasons for which the whole would be refused (the peer's fault, or too late).
    """
    ledger = context.ledger
    view = addressed(upload, ledger)
    if (view.max_step_bytes is not None) != (upload.is_step or False):
        _refuse("wrong-privacy", f"{upload.task} takes {'steps of a sum' if view.max_step_bytes else 'updates'}")
    of_this_round(device, upload, view, ledger)
    if upload.is_step:
        if view.round_state not in SUM_STATES.values():
            _refuse("late", f"the sum of round {upload.round} has ended")
    elif view.round_state != "open":
        _refuse("late", f"round {upload.round} has closed")
    elif ledger.taken_from(upload.task, upload.round, device) is not None:
        _refuse("duplicate", f"another update of {device} was taken for round {upload.round}")
    max_bytes = _max_bytes(device, view)
    if upload.n_bytes > max_bytes:
        _refuse("oversize", f"an upload of {upload.n_bytes} bytes, at most {max_bytes} are taken")


def _max_bytes(device: str, view: TaskView) -> int:
    return view.max_step_bytes or max_message_bytes(view.plan, view.n_values(device))


def _refuse(reason: Reason, message: str) -> None:
    raise RemoteProtocolError(message, reason=reason)
