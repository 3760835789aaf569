"""What the aggregator needs of the world beside its database. ``adapters`` implements it; tests fake it.

The database's ports are in ``store_ports``, the link is ``host.link.Link``. Law: a blob is durable before a row names
it, so a row never names what is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from aggregator.core.enrolment import CertificateRecord
    from aggregator.core.privacy.ledger import LedgerEntry, Step
    from protocol.errors import EdgefoldError
    from protocol.jobs import EvaluateResult
    from protocol.sealing import TaskKey

__all__ = [
    "Accountant",
    "BlobStore",
    "Clock",
    "EvaluationRequest",
    "Evaluator",
    "Issuer",
    "SpentRecord",
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
