"""What the aggregator keeps in its database, as ports: tasks and rounds, secure sums, devices, commands, retention.

``adapters`` implements them in SQL (``sql_*``). Laws: each writing method is one transaction: after it returns the
whole change survives a power cut, before, nothing of it. Whatever names a blob is written after the blob is durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregator.core.buffer import Buffered
    from aggregator.core.enrolment import CertificateRecord, DeviceRecord, TokenRecord
    from aggregator.core.pace import Participation
    from aggregator.core.privacy.ledger import LedgerEntry, PrivateFold
    from aggregator.core.records import (
        Change,
        CommandRecord,
        CreatedTask,
        Evaluation,
        RetentionMark,
        RoundRecord,
        RoundSummary,
        Standing,
        TaskRecord,
        Traffic,
        UpdateRecord,
        VersionRecord,
    )
    from aggregator.core.rounds import RoundEvent
    from protocol.enrolment import ClaimReason
    from protocol.reasons import Reason
    from protocol.sum_round import SumNextName, SumStepName

__all__ = ["DeviceStore", "LifecycleStore", "RetentionStore", "Store", "StoreReader", "SumStore"]


class StoreReader(Protocol):
    """What was made durable; every method raises ``StorageError`` if the database cannot be read."""

    def task(self, task: str) -> TaskRecord | None: ...  # noqa: D102
    def rounds(self, task: str) -> Sequence[RoundRecord]: ...  # noqa: D102
    def n_folded(self, task: str) -> int: ...  # noqa: D102
    def latest_round(self, task: str) -> RoundRecord: ...  # noqa: D102
    def latest_version(self, task: str) -> VersionRecord: ...  # noqa: D102
    def versions(self, task: str) -> Sequence[VersionRecord]: ...  # noqa: D102
    def is_joined(self, task: str, round_: int, device: str) -> bool: ...  # noqa: D102
    def n_joined(self, task: str, round_: int) -> int: ...  # noqa: D102
    def joined(self, task: str, round_: int) -> Sequence[str]: ...  # noqa: D102
    def answer_times(self, task: str, round_: int) -> Mapping[str, float]: ...  # noqa: D102
    def last_participation(self, task: str, device: str) -> Participation | None: ...  # noqa: D102
    def taken(self, update_id: bytes) -> UpdateRecord | None: ...  # noqa: D102
    def taken_from(self, task: str, round_: int, device: str) -> UpdateRecord | None: ...  # noqa: D102
    def updates(self, task: str, round_: int) -> Sequence[UpdateRecord]: ...  # noqa: D102
    def buffered(self, task: str, buffer: int) -> Sequence[Buffered]: ...  # noqa: D102
    def at_work(self, task: str, *, since: int) -> Sequence[str]: ...  # noqa: D102
    def oldest_work(self, task: str, *, since: int) -> int | None: ...  # noqa: D102
    def rounds_from(self, task: str, *, version: int) -> Sequence[RoundRecord]: ...  # noqa: D102
    def restored(self, task: str) -> int: ...  # noqa: D102
    def rejected(self, task: str) -> frozenset[int]: ...  # noqa: D102
    def summary(self, task: str, round_: int) -> RoundSummary: ...  # noqa: D102
    def evaluations(self, task: str) -> Mapping[int, Evaluation]: ...  # noqa: D102
    def refusals(self, task: str) -> Mapping[str, int]: ...  # noqa: D102
    def ledger(self, task: str) -> Sequence[LedgerEntry]: ...  # noqa: D102


class Store(StoreReader, Protocol):
    """The transactions; every method raises ``StorageError`` if nothing of it could be kept."""

    def add_task(self, task: TaskRecord, version: VersionRecord, first_round: RoundRecord) -> None:
        """Keep a new task with version 0 and its first round."""

    def join(self, task: str, round_: int, device: str, *, traffic: Traffic, unix_s: float) -> None:
        """Keep that the device takes part, if it is not known, and count its traffic."""

    def accept(
        self,
        update: UpdateRecord,
        *,
        traffic: Traffic,
        unix_s: float,
        buffer: int | None = None,
        metrics: Mapping[str, float] = ...,
    ) -> None:
        """Keep an update, in ``buffer`` if it is for one, and what its device told with it."""

    def refuse(
        self,
        reason: Reason | ClaimReason,
        *,
        task: str = "",
        round_: int = 0,
        device: str = "",
        traffic: Traffic | None = None,
    ) -> None:
        """Count a refusal, for the task if it is a known one, and the traffic if the device takes part in the round."""

    def start_closing(
        self, task: str, round_: int, round_event: RoundEvent, *, entry: LedgerEntry | None = None
    ) -> None:
        """Fix the round's updates for the reason ``round_event`` and, with ``entry``, what their fold costs."""

    def charge(self, entry: LedgerEntry) -> None:
        """Keep what a round's secure sum costs, before it is masked."""

    def fold(
        self,
        task: str,
        round_: int,
        *,
        version: VersionRecord,
        next_round: RoundRecord | None,
        is_last: bool = False,
        private: PrivateFold | None = None,
    ) -> None:
        """Close the round by its version; open the next if there is one, finish the task if it was the last."""

    def abandon(
        self, task: str, round_: int, round_event: RoundEvent, *, next_round: RoundRecord | None, unix_s: float
    ) -> None:
        """Close the round without a version, discard its updates and open the next, if there is one."""

    def carry_over(self, task: str, buffer: int, *, next_round: RoundRecord, unix_s: float) -> None:
        """Close a buffer without a version and open the next, in which its updates wait on."""

    def open_round(self, round_: RoundRecord) -> None:
        """Open a round of a task that has none."""

    def finish(self, task: str, round_: int, *, unix_s: float) -> None:
        """End a task that was given fewer rounds than it has; its open round is abandoned."""

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Keep a version's metrics."""


class SumStore(Protocol):
    """The secure sums of rounds; every method raises ``StorageError`` if nothing of it could be read or kept."""

    def state(self, task: str, round_: int) -> bytes | None: ...  # noqa: D102
    def taken(self, task: str, round_: int, device: str, step: SumStepName) -> bytes | None: ...  # noqa: D102
    def messages(self, task: str, round_: int) -> Mapping[str, tuple[SumNextName, bytes]]: ...  # noqa: D102

    def accept(  # noqa: PLR0913 - one message and what follows from it
        self,
        task: str,
        round_: int,
        device: str,
        *,
        step: SumStepName,
        update_id: bytes,
        state: bytes,
        traffic: Traffic,
    ) -> None:
        """Keep that a device's message was taken, and the state that has it."""

    def close_step(  # noqa: PLR0913 - the end of one step
        self,
        task: str,
        round_: int,
        round_event: RoundEvent,
        *,
        state: bytes,
        step: SumNextName | None,
        messages: Mapping[str, bytes],
        n_bytes: Mapping[str, int],
        deadline_unix_s: float,
    ) -> None:
        """End a step: the new state, the round's next state and deadline, and what each device is sent."""

    def forget(self, task: str, round_: int, *, keep_state: bool) -> None:
        """Drop what only a running sum needs and, unless it is to be folded again later, the sum itself."""


class RetentionStore(Protocol):
    """Takes a task's past out; every method raises ``StorageError`` if nothing of it could be done."""

    def mark(self, task: str) -> RetentionMark: ...  # noqa: D102
    def folded_bytes(self, task: str) -> Sequence[tuple[int, int]]: ...  # noqa: D102

    def retire_versions(self, task: str, versions: Sequence[int]) -> set[str]:
        """Forget versions; return the blobs that nothing names any more."""

    def retire_rounds(self, task: str, rounds: Sequence[int]) -> set[str]:
        """Add up ended rounds and forget their rows; return the blobs of their updates."""

    def retire_updates(self, task: str, *, before_round: int) -> set[str]:
        """Forget the sums of older folded rounds; return the blobs of those rounds' updates."""

    def retire_commands(self, *, keep: int) -> None:
        """Forget all but the newest of the commands that were answered."""


class LifecycleStore(Protocol):
    """Commands, and what was decided about tasks; every method raises ``StorageError`` if the database fails."""

    def created(self) -> Sequence[CreatedTask]: ...  # noqa: D102
    def waiting(self) -> Sequence[CommandRecord]: ...  # noqa: D102
    def standings(self, task: str) -> Mapping[int, Standing]: ...  # noqa: D102

    def apply(self, change: Change) -> None:
        """Make one decision durable, all of it or nothing."""

    def done(self, command: int) -> None:
        """Keep that a command was obeyed."""

    def refuse(self, command: CommandRecord, why: str) -> None:
        """Keep why a command was not obeyed; a task that was to be created is forgotten."""


class DeviceStore(Protocol):
    """Who may take part; every method raises ``StorageError`` if the database fails."""

    def device(self, device: str) -> DeviceRecord | None: ...  # noqa: D102
    def token(self, digest: bytes) -> TokenRecord | None: ...  # noqa: D102
    def certificate(self, serial: str) -> CertificateRecord | None: ...  # noqa: D102
    def certificates(self, device: str) -> Sequence[CertificateRecord]: ...  # noqa: D102
    def revoked_serials(self, unix_s: float) -> Sequence[int]: ...  # noqa: D102
    def to_shut_out(self) -> Sequence[str]: ...  # noqa: D102

    def use_token(self, token: TokenRecord, device: DeviceRecord, certificate: CertificateRecord | None) -> None:
        """Keep that ``device`` came with ``token`` and, if it was enrolled, its certificate."""

    def add_certificate(self, certificate: CertificateRecord) -> None:
        """Keep a renewed certificate."""

    def shut_out(self, device: str) -> None:
        """Keep that the broker knows of the revocation."""
