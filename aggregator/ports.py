"""What the aggregator needs of the world. ``adapters`` implements it; tests fake it. The link is ``host.link.Link``.

Laws: each writing method of ``Store`` is one transaction: after it returns the whole change survives a power cut,
before, nothing of it. A blob is durable before a row names it, so a row never names what is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from aggregator.core.buffer import Buffered
    from aggregator.core.enrolment import CertificateRecord, DeviceRecord, TokenRecord
    from aggregator.core.pace import Participation
    from aggregator.core.privacy.ledger import LedgerEntry, PrivateFold, Step
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
    from protocol.errors import EdgefoldError
    from protocol.jobs import EvaluateResult
    from protocol.messages import Reason, SumNextName, SumStepName
    from protocol.sealing import TaskKey

__all__ = [
    "Accountant",
    "BlobStore",
    "Clock",
    "DeviceStore",
    "EvaluationRequest",
    "Evaluator",
    "Issuer",
    "LifecycleStore",
    "RetentionStore",
    "SpentRecord",
    "Store",
    "StoreReader",
    "SumStore",
    "Supervisor",
    "Tags",
    "TaskKeys",
]


class TaskKeys(Protocol):
    """The private keys that open what devices seal for one task; each round has one."""

    def of_round(self, round_: int) -> TaskKey:
        """Return the key that opens what was sealed for this round."""

    def begin(self, round_: int) -> None:
        """Make a key that holds from ``round_`` on, unless there is one."""

    def end_before(self, round_: int) -> None:
        """Destroy the keys that hold for earlier rounds alone."""


class Tags(Protocol):
    """The operator's tags of devices."""

    def tag_of(self, device: str) -> str:
        """Return the device's tag, or ``""``."""


class Clock(Protocol):
    """Time, passed in so that tests own it."""

    def unix_s(self) -> float:
        """Return the wall clock, for what is kept and shown."""

    def monotonic_s(self) -> float:
        """Return a clock that never jumps, for waiting."""


class BlobStore(Protocol):
    """Bytes by the hex SHA-256 of their content."""

    def put(self, data: bytes) -> str:
        """Keep ``data`` durably and return its name.

        Raises:
            StorageError: it could not be kept.
        """

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return the bytes of ``name``, checked against it.

        Raises:
            StorageError: missing, too long, or not what its name says.
        """

    def remove(self, name: str) -> None:
        """Forget ``name``, if it is there."""


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


class Issuer(Protocol):
    """Signs certificates for the fleet."""

    def issue(
        self, device: str, request: bytes, *, verify_key: bytes, life_s: float, unix_s: float
    ) -> CertificateRecord:
        """Return a new certificate for a device's own request, which names its Ed25519 key too.

        Raises:
            MalformedMessageError: the request is not the device's (the peer's fault).
            ConfigError: the issuing certificate has ended (the operator's fault).
        """

    def is_by_present(self, der: bytes) -> bool:
        """Return whether a certificate was signed by the issuing key in use."""

    def chain(self, der: bytes) -> tuple[bytes, ...]:
        """Return a certificate and what signed it, up to but without the root."""

    def write_crl(self, serials: Iterable[int], *, unix_s: float) -> None:
        """Replace the revocation list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """One version to be measured on held-out sets."""

    task: str
    version: int
    bundle: Path
    adapter: NDArray[np.float32]  # [n_params], and behind it the base change where there is one
    sets: Mapping[str, Path]
    batch_size: int
    max_tokens: int
    has_base_change: bool = False


class Evaluator(Protocol):
    """Measures one version at a time, beside the rounds."""

    def start(self, request: EvaluationRequest, on_end: Callable[[EvaluateResult | EdgefoldError], None]) -> None:
        """Begin; ``on_end`` is called once, from any thread, with the result or the error.

        Raises:
            EngineError, StorageError: it could not even begin; ``on_end`` is not called.
        """

    def close(self) -> None:
        """End what runs and wait for it."""


class Supervisor(Protocol):
    """Keeps something beside the service alive, such as its broker."""

    def tick(self, monotonic_s: float) -> None:
        """Look after it; returns soon."""

    def close(self) -> None:
        """End it."""


class Accountant(Protocol):
    """Turns mechanisms into epsilons; ``core.privacy.accounting`` says how."""

    def epsilon(self, steps: Sequence[Step], *, delta: float) -> float:
        """Return the epsilon of ``steps`` together.

        Raises:
            StorageError: no answer came.
        """

    def noise(
        self, spent: Sequence[Step], *, n_rounds: int, sampling_rate: float, epsilon: float, delta: float
    ) -> float | None:
        """Return the smallest noise multiplier with which ``n_rounds`` more fit, or None.

        Raises:
            StorageError: no answer came.
        """


class SpentRecord(Protocol):
    """A second record of one task's ledger, apart from the database."""

    def read(self) -> Sequence[LedgerEntry]:
        """Return the entries.

        Raises:
            StorageError: they cannot be read.
        """

    def add(self, entries: Iterable[LedgerEntry]) -> None:
        """Keep ``entries`` durably beside what is there.

        Raises:
            StorageError: they could not be kept.
        """
