"""What the agent needs from outside, as ports of one to three methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.errors import EdgefoldError
    from protocol.jobs import Progress, SumStepJob, SumStepResult, TrainJob, TrainResult
    from protocol.signing import SigningKey

__all__ = ["Beside", "KeyStore", "Running", "StartStep", "StartTrainer"]


class KeyStore(Protocol):
    """Keeps this device's private keys; files today, a TPM or a keyring would fit."""

    def signing_key(self, *, with_second: bool = False) -> SigningKey:
        """Return the key that signs messages, made if there is none; likewise its second key, if asked for.

        Raises:
            ConfigError: it cannot be used.
        """

    def certificate_request(self, device: str) -> bytes:
        """Return a PKCS #10 request, DER, by the key for TLS, made if there is none.

        Raises:
            ConfigError: it cannot be used.
        """


class Running(Protocol):
    """A trainer at work."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def pause(self) -> None:
        """Stop it where it is; its memory stays."""

    def resume(self) -> None:
        """Let it go on."""

    def close(self) -> None:
        """End it if it still runs, and wait for its last callback."""


class StartTrainer(Protocol):
    """Starts a trainer process; calls back from another thread, ``on_end`` exactly once."""

    def __call__(
        self,
        job: TrainJob,
        *,
        on_end: Callable[[TrainResult | EdgefoldError], None],
        on_progress: Callable[[Progress], None],
    ) -> Running:
        """Return the running trainer.

        Raises:
            EngineError: it cannot be started.
        """


class Beside(Protocol):
    """What a device does beside its rounds: answers programs of this machine, learns for itself."""

    def turn(self, *, is_idle: bool) -> None:
        """Do what is due; called at least every half minute.

        Args:
            is_idle: no round of this device is being trained, and none is about to be.
        """

    def close(self) -> None:
        """End what runs, and wait for it."""


class StartStep(Protocol):
    """Starts a trainer process for one step of a secure sum; calls back as ``StartTrainer`` does."""

    def __call__(self, job: SumStepJob, *, on_end: Callable[[SumStepResult | EdgefoldError], None]) -> Running:
        """Return the running trainer.

        Raises:
            EngineError: it cannot be started.
        """
