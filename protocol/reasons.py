"""Why a message was not taken: the names that operators see in counters, and devices in receipts.

Law: a reason, once given, keeps its name; a new one is something that older devices do not know and refuse.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

__all__ = ["REASONS", "Reason"]

Reason: TypeAlias = Literal[
    "malformed",  # not a message of this version, or a field out of bounds
    "oversize",  # longer than the bound; not decoded
    "unknown-device",  # not in the registry
    "revoked",  # was in the registry, until its operator took it out
    "bad-renewal",  # a certificate was asked for where nobody signs, with a request of another, or too often
    "wrong-sender",  # the topic belongs to another device than the envelope names
    "bad-signature",  # not signed by the device it names
    "wrong-task",  # no such task here
    "wrong-bundle",  # trained with another bundle than the task's
    "wrong-round",  # a round that has not opened yet
    "late",  # the round has closed
    "stale",  # trained on an older version than an asynchronous task takes
    "wrong-version",  # based on another adapter version than the round's
    "not-selected",  # the cohort is full
    "not-joined",  # an update without a join: no work was handed out for it
    "replayed",  # this very update was taken before
    "duplicate",  # another update of this device was taken for this round
    "bad-seal",  # does not open for this task, round, version, device and update id
    "wrong-shape",  # not as many values as the adapter has
    "not-finite",  # NaN or infinity
    "bad-encoding",  # an update codec's rule is broken
    "norm-exceeded",  # longer than the plan's clip
    "bad-examples",  # more examples than the task takes from one device
    "paused",  # the task takes nobody for now
    "finished",  # the task has ended
    "no-seal-key",  # the task seals its adapter, and the join brings no key, or none that can be sealed to
    "wrong-privacy",  # a single update where the task asks for a secure sum, or the reverse
    "no-certificate",  # a secure sum, and the device's certificate does not name its signing key
    "out-of-step",  # a secure sum's message for another step than the present one
    "not-shared",  # a masked vector of a device that gave no shares
    "not-survived",  # a consent or shares of a device whose vector is not in the sum
    "too-often",  # a device asks for the newest version again and again
    "bad-chunk",  # a piece of an upload, or its whole, that is not what its manifest names
]
REASONS: Final[tuple[Reason, ...]] = Reason.__args__  # type: ignore[attr-defined]  # Literal keeps its choices there
