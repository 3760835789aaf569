"""One screen on a device: why it is or isn't training, from its files alone. Reads only, and asks nobody.

Laws: a file that is missing or damaged is a line of the screen, never an error; nothing is verified here, which is
``edgefold agent doctor``'s work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.adapters.conduct_record import read_conduct
from edge_agent.adapters.device_folder import is_held, read_receipt, read_state
from edge_agent.adapters.fetched_bundles import begun_bytes, whole_folders
from edge_agent.adapters.refusal import read_refusal
from edge_agent.adapters.sample_record import SampleRecord
from edge_agent.config import AgentConfig
from edge_agent.stream_status import StreamStatus, read_stream
from host.certificates import load_pem
from host.config import load
from host.durable import read_bytes
from protocol.bundle import MANIFEST, MAX_MANIFEST_BYTES, bundle_id
from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.adapters.refusal import Refusal
    from edge_agent.core.session import SessionState
    from edge_agent.privacy_settings import PrivacySettings

__all__ = ["LastReceipt", "Status", "read_status"]

_DOCTOR: Final = "edgefold agent doctor finds out more"
_PHASES: Final = {
    "joining": "it asked to join and waits for the service's work or refusal",
    "training": "it is training",
    "sending": "its update waits in the outbox for the service's receipt",
    "summing": "it is taking a step of a secure sum",
    "waiting": "it took a step of a secure sum and waits for the other devices",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LastReceipt:
    """What the service said of the last update that it got; the time is this device's."""

    task: str
    round: int
    status: str
    reason: str | None
    unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a device's files say.

    Attributes:
        why: one sentence: why it is or isn't training.
        holds: what the owner's rules said at their last look.
        phase: of the session; ``damaged`` if its file cannot be read.
        n_failures: of training in this round.
        done: the last finished round of each task.
        outbox_bytes: of each message that waits for a receipt.
        bundles: id by folder, None where there is no manifest; not verified.
        fetching_bytes: how much of each bundle that is being fetched is here.
        certificate_end_unix_s: None for a device without a certificate.
        last_refusal: the last round that this device would not or could not train.
        examples_paid: what trainings with noise have cost its examples, in one sentence; None before the first.
        stream: the score of its examples; None for a device without a store.
    """

    fleet: str
    device: str
    is_running: bool
    why: str
    holds: tuple[str, ...]
    phase: str
    task: str | None
    round: int | None
    n_failures: int
    done: dict[str, int]
    last_receipt: LastReceipt | None
    outbox_bytes: tuple[int, ...]
    bundles: dict[str, str | None]
    fetching_bytes: dict[str, int]
    certificate_end_unix_s: float | None
    last_refusal: Refusal | None = None
    examples_paid: str | None = None
    stream: StreamStatus | None = None


def read_status(config_path: Path) -> Status:
    """Return how the device of this configuration stands.

    Raises:
        ConfigError: the configuration is missing or wrong (the user's fault).
    """
    config, here = load(AgentConfig, config_path), config_path.parent
    folder, device = here / config.device.folder, config.device
    try:
        state = read_state(folder)
    except StorageError:
        state = None
    job, is_running = None if state is None else state.job, is_held(folder)
    holds = read_conduct(folder).holds
    end_unix_s, refusal = _certificate_end(here / device.identity / "certificate.pem"), read_refusal(folder)
    return Status(
        fleet=device.fleet,
        device=device.id,
        is_running=is_running,
        why=_why(state, holds=holds, is_running=is_running, end_unix_s=end_unix_s, refusal=refusal),
        holds=holds,
        phase="damaged" if state is None else state.phase,
        task=None if job is None else job.task,
        round=None if job is None else job.round,
        n_failures=0 if job is None else job.n_failures,
        done={} if state is None else dict(state.done),
        last_receipt=_last_receipt(folder),
        outbox_bytes=tuple(sorted(path.stat().st_size for path in folder.glob("outbox-*.cbor"))),
        bundles={name: _bundle_id(here / name) for name in (*device.bundles, *_fetched(config, here))},
        fetching_bytes=begun_bytes(here / config.bundles.folder),
        certificate_end_unix_s=end_unix_s,
        last_refusal=refusal,
        examples_paid=_examples_paid(folder, config.privacy),
        stream=read_stream(folder),
    )


def _examples_paid(folder: Path, privacy: PrivacySettings) -> str | None:
    try:
        return SampleRecord(folder).summary(max_epsilon=privacy.max_sample_epsilon, delta=privacy.sample_delta)
    except StorageError as error:
        return str(error)


def _why(
    state: SessionState | None,
    *,
    holds: tuple[str, ...],
    is_running: bool,
    end_unix_s: float | None,
    refusal: Refusal | None,
) -> str:
    if state is None:
        return f"it isn't training: its state is damaged; {_DOCTOR}"
    if end_unix_s is not None and end_unix_s < time.time():
        return f"it isn't training: its certificate expired; {_DOCTOR}"
    if not is_running:
        return "it isn't training: the agent is not running; start it: edgefold agent run"
    if holds:
        return f"a rule of its owner holds it back: {'; '.join(holds)}"
    return _PHASES[state.phase] if state.phase != "idle" else _why_idle(state, refusal)


def _why_idle(state: SessionState, refusal: Refusal | None) -> str:
    if not state.heard:
        return f"it isn't training: it has heard of no task; {_DOCTOR}"
    if refusal is not None and refusal.task in state.heard and state.heard[refusal.task].round == refusal.round:
        return f"it isn't training: it left round {refusal.round} of {refusal.task} out: {refusal.why}"
    latest = ", ".join(f"{task} (round {heard.round})" for task, heard in sorted(state.heard.items()))
    return f"it isn't training: it waits for the next round it can take part in; last heard: {latest}"


def _fetched(config: AgentConfig, here: Path) -> list[str]:
    return [f"{config.bundles.folder}/{path.name}" for path in whole_folders(here / config.bundles.folder)]


def _last_receipt(folder: Path) -> LastReceipt | None:
    found = read_receipt(folder)
    if found is None:
        return None
    receipt, unix_s = found
    return LastReceipt(
        task=receipt.task, round=receipt.round, status=receipt.status, reason=receipt.reason, unix_s=unix_s
    )


def _bundle_id(folder: Path) -> str | None:
    try:
        return bundle_id(read_bytes(folder / MANIFEST, max_bytes=MAX_MANIFEST_BYTES))
    except (OSError, StorageError):
        return None


def _certificate_end(path: Path) -> float | None:
    try:
        return load_pem(path)[0].not_valid_after_utc.timestamp()
    except ConfigError:
        return None
