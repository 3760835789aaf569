"""The facts that the aggregator keeps, as values. How they are stored is the affair of ``adapters.sql_*``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.core.lifecycle import Verb
    from aggregator.core.rounds import RoundState

__all__ = [
    "Change",
    "CommandRecord",
    "CreatedTask",
    "Evaluation",
    "RetentionMark",
    "RoundRecord",
    "RoundSummary",
    "SetScore",
    "Standing",
    "TaskRecord",
    "TaskState",
    "Traffic",
    "UpdateRecord",
    "UpdateStatus",
    "VersionRecord",
]

TaskState: TypeAlias = Literal[
    "open",
    "paused",  # its open round, if it has one, goes on with those who have work; no other opens
    "finished",  # as many rounds as were asked for were folded
    "stopped",  # by its operator, for good
]
UpdateStatus: TypeAlias = Literal[
    "accepted",  # durable, waits for its round's fold
    "folded",  # is in exactly one version
    "discarded",  # its round was abandoned
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task: what can never change about it, and whether it goes on."""

    task: str
    bundle_id: str
    strategy: str
    state: TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One round on ``version``; times are seconds of Unix time."""

    task: str
    round: int
    version: int
    state: RoundState
    opened_unix_s: float
    deadline_unix_s: float
    closed_unix_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRecord:
    """An accepted update; ``blob`` names its sealed bytes."""

    update_id: bytes
    task: str
    round: int
    device: str
    blob: str
    n_bytes: int  # the whole message and its topic
    payload_bytes: int  # the encoded delta
    n_examples: int
    loss: float
    train_s: float
    status: UpdateStatus = "accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One adapter version; ``state`` names the blob of each vector of the strategy's state, ``adapter`` among them."""

    task: str
    version: int
    round: int | None  # the round that was folded into it; None for version 0, the bundle's
    state: Mapping[str, str]
    n_updates: int
    created_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScore:
    """A version on one evaluation set; ``accuracy`` is a fraction, ``loss`` the mean cross entropy."""

    accuracy: float
    loss: float
    n_examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A version on all evaluation sets."""

    task: str
    version: int
    sets: Mapping[str, SetScore]
    wall_s: float

    @property
    def pooled_accuracy(self) -> float:
        """The fraction of all examples that were right, sets together."""
        return self._pooled({name: score.accuracy for name, score in self.sets.items()})

    @property
    def pooled_loss(self) -> float:
        """The mean cross entropy over all examples, sets together."""
        return self._pooled({name: score.loss for name, score in self.sets.items()})

    def _pooled(self, values: Mapping[str, float]) -> float:
        n_examples = sum(score.n_examples for score in self.sets.values())
        return sum(values[name] * score.n_examples for name, score in self.sets.items()) / n_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes of published payloads and topics, seen from the devices: ``up`` is what they sent."""

    up_bytes: int = 0
    down_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSummary:
    """What one round did; ``loss`` is the clients' mean, weighted by examples; None before the first update."""

    n_participants: int
    n_updates: int
    train_s_max: float
    loss: float | None
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionMark:
    """What was retired of a task: everything below these numbers, and how many rounds that were."""

    versions_since: int = 0
    rounds_since: int = 0
    updates_since: int = 0  # the first round whose folded updates may still have blobs
    n_folded: int = 0
    n_abandoned: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What was decided about a version; ``origin`` is the older version that it repeats."""

    task: str
    version: int
    status: Literal["promoted", "rejected"]
    why: str
    origin: int | None = None
    decided_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedTask:
    """A task that came by command; ``settings`` is canonical JSON, ``digest`` its SHA-256 in hex."""

    task: str
    settings: str
    digest: str
    created_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    """What an operator asked for; ``why`` says why it was refused."""

    command: int
    task: str
    verb: Verb
    version: int | None
    status: Literal["waiting", "done", "refused"]
    why: str
    asked_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """All that one decision changes about a task, in one transaction.

    Attributes:
        state: the task's new state.
        withdrawn_round: an open round that ends without a version.
        standings: what was decided about versions.
        version: a new version that repeats ``copied``, whose figures it takes over.
        command: the command that is done by this.
    """

    task: str
    unix_s: float
    state: TaskState | None = None
    withdrawn_round: int | None = None
    standings: tuple[Standing, ...] = ()
    version: VersionRecord | None = None
    copied: int | None = None
    command: int | None = None
