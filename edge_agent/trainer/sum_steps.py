"""One step of a secure sum in a process of its own, so that numpy stays out of the idle agent.

Workflow: read the stored state and the service's message -> find the neighbours' keys -> take the step -> write state,
reply and what is to be signed. Laws: the same state and message give the same files; nothing is signed here, the agent
holds the key and signs what ``STATEMENT_FILE`` says; a state is written to a folder that only this user reads.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from host.arrays import load_vector
from host.certificates import load_pem
from host.config import load
from host.device_certificates import check_peers
from host.durable import read_bytes, write_bytes
from host.memory import peak_bytes
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import ConfigError, LocalProtocolError
from protocol.fields import Hex, Name  # noqa: TC001 - structure() resolves the annotations
from protocol.jobs import DIRECTORY_FILE, REPLY_FILE, STATE_FILE, STATEMENT_FILE, SumStepJob, SumStepResult
from protocol.messages import unpack_body
from protocol.secure_sum import device
from protocol.secure_sum.device_state import pack_state, unpack_state
from protocol.secure_sum.messages import SIGNATURE_BYTES
from protocol.secure_sum.stored import join_records, split_records
from protocol.signing import VerifyKey
from protocol.sum_round import SumNext

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.secure_sum.device_state import DeviceState

__all__ = ["take_step"]

_STATE_BYTES: Final = 4 * MAX_MESSAGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registry:
    devices: dict[Name, Hex]


@dataclass(slots=True)
class _Later:
    """Stands for the key that the agent holds: keeps what is to be signed, and signs nothing."""

    statement: bytes = field(default=b"")

    def sign(self, message: bytes) -> bytes:
        self.statement = message
        return bytes(SIGNATURE_BYTES)


def take_step(job: SumStepJob, *, started: float) -> SumStepResult:
    """Take the step and write its files.

    Raises:
        RemoteProtocolError, TrustError: the service's message is refused (its fault); the sum is over for this device.
        ConfigError: the device has neither a root nor a registry, or a file is missing (the user's fault).
    """
    out, key = Path(job.out), _Later()
    message = None if job.message is None else _next(Path(job.message))
    directory = _directory(job, message)
    state, reply = _step(job, message, directory, key)
    if job.step == "shares":
        packed = join_records({name: one.raw for name, one in directory.items()})
        write_bytes(out / DIRECTORY_FILE, packed)
    write_bytes(out / STATEMENT_FILE, key.statement)
    write_bytes(out / REPLY_FILE, reply)
    write_bytes(out / STATE_FILE, pack_state(state))
    return SumStepResult(step=job.step, wall_s=time.monotonic() - started, peak_memory_bytes=peak_bytes())


def _step(
    job: SumStepJob, message: SumNext | None, directory: Mapping[str, VerifyKey], key: _Later
) -> tuple[DeviceState, bytes]:
    if job.step == "adverts":
        return device.advertise(job.plan, name=job.device, key=key, entropy=os.urandom(32))
    if job.state is None or message is None:
        raise LocalProtocolError(f"the step {job.step} without a state or a message")
    state = unpack_state(read_bytes(Path(job.state), max_bytes=_STATE_BYTES))
    if state.plan != job.plan or state.name != job.device:
        raise LocalProtocolError("the stored state is of another sum")
    match job.step:
        case "shares":
            return device.take_roster(state, message.message, directory=directory)
        case "inputs":
            vector = load_vector(Path(job.vector or ""), n_values=job.plan.n_params)  # float32 [n_params]
            return device.take_delivery(state, message.message, vector=vector, weight=job.weight, key=key)
        case "consents":
            return device.take_survivors(state, message.message, directory=directory, key=key)
        case _:
            return device.take_agreement(state, message.message, directory=directory)


def _next(path: Path) -> SumNext:
    body = unpack_body("sum-next", read_bytes(path, max_bytes=MAX_MESSAGE_BYTES))
    if not isinstance(body, SumNext):  # pragma: no cover - kind "sum-next" is SumNext
        raise LocalProtocolError("not a sum's message")
    return body


def _directory(job: SumStepJob, message: SumNext | None) -> Mapping[str, VerifyKey]:
    """Return the neighbours' keys: once the roster was accepted those that were believed then, and no others."""
    if job.directory is not None:
        stored = split_records(read_bytes(Path(job.directory), max_bytes=MAX_MESSAGE_BYTES))
        return {name: VerifyKey(raw) for name, raw in stored.items()}
    if message is None:
        return {}
    if job.peers is not None:
        registry = load(_Registry, Path(job.peers)).devices
        return {name: VerifyKey(bytes.fromhex(key)) for name, key in registry.items()}
    if job.root is None:
        raise ConfigError("privacy.directory: missing; this device has not enrolled, so its owner must name its peers")
    (root,) = load_pem(Path(job.root))
    return check_peers(message.certificates, message.issuers, root=root, unix_s=time.time())
