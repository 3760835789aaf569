"""A device's part in secure sums: what it agrees to, each step in a trainer process, signed and sealed here.

Workflow of a step: the trainer computes it from the stored state -> its statement is checked and signed here -> the
message is sealed to the task's key and signed as an envelope -> state and envelope become one durable file -> it is
sent until it is receipted. Laws: the signing key never leaves this process, and signs no statement but a secure sum's
of this step; a step that was taken is never taken again. Loads no numpy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from edge_agent.adapters.noise_record import NoiseRecord
from edge_agent.adapters.sum_folder import StepRecord, SumFolder
from host.durable import read_bytes
from protocol import cbor
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import LocalProtocolError, StorageError
from protocol.jobs import DELTA_FILE, DIRECTORY_FILE, REPLY_FILE, STATE_FILE, STATEMENT_FILE, SumStepJob
from protocol.messages import pack_body
from protocol.sealing import seal, step_binding
from protocol.secure_sum.messages import Advert, Consent, MaskedInput, SumPlan, pack, unpack
from protocol.secure_sum.noise_claim import claimed_multiplier
from protocol.signing import sign
from protocol.sum_round import SumStep

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edge_agent.core.session import Job
    from edge_agent.ports import StartStep
    from edge_agent.privacy_settings import PrivacySettings
    from protocol.messages import Work
    from protocol.signing import SigningKey
    from protocol.sum_round import SumNext, SumStepName, SumTerms

__all__ = ["DeviceSums", "Peers"]

_UPDATE_ID_BYTES: Final = 16
_STATE_BYTES: Final = 4 * MAX_MESSAGE_BYTES
_STATEMENT_BYTES: Final = 1 << 16
# What a step signs and in which message: the label of its statement (``secure_sum.keys.statement``).
_SIGNED: Final[Mapping[SumStepName, tuple[str, type[Advert | MaskedInput | Consent]]]] = {
    "adverts": ("advert", Advert),
    "inputs": ("masked input", MaskedInput),
    "consents": ("consent", Consent),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Whom to ask who the neighbours are: the fleet's root, or a file of the owner's; the file comes first."""

    root: Path | None = None
    registry: Path | None = None


class DeviceSums:
    """One device's secure sums."""

    def __init__(  # noqa: PLR0913 - the ports are the arguments
        self,
        settings: PrivacySettings,
        *,
        fleet: str,
        device: str,
        key: SigningKey,
        folder: SumFolder,
        peers: Peers,
        start: StartStep,
    ) -> None:
        """Take part for ``device`` on the terms of ``settings``."""
        self.settings, self.folder, self.start = settings, folder, start
        self._noise = NoiseRecord(folder.root)
        self._fleet, self._device, self._key, self._peers = fleet, device, key, peers

    def why_not(self, terms: SumTerms | None) -> str | None:
        """Return why this device takes no part on these terms, or None if it does."""
        if terms is not None and self._peers.root is None and self._peers.registry is None:
            return "a secure sum needs the other devices' keys, not from the service: enrol, or write privacy.directory"
        return self.settings.why_not(terms, precision=self._noise.precision())

    def begin(self, work: Work, scratch: Path, n_examples: int) -> None:
        """Keep the trained delta for the sum that ``work`` asks for."""
        delta = read_bytes(scratch / DELTA_FILE, max_bytes=MAX_MESSAGE_BYTES)
        weight = min(n_examples, _terms(work).weight_cap)
        if self.settings.keep_deltas:
            self.folder.keep_delta(work.task, work.round, weight, delta)
        self.folder.begin(delta, weight)

    def taken(self, job: Job, step: SumStepName) -> bytes | None:
        """Return the id of the message of ``step`` if it was taken before a crash, or None."""
        record = self.folder.step()
        is_it = record is not None and (record.task, record.round, record.step) == (job.task, job.round, step)
        return record.update_id if record is not None and is_it else None

    def job(self, work: Work, step: SumStepName, scratch: Path) -> SumStepJob:
        """Return what a trainer is to compute, its inputs in ``scratch``.

        Raises:
            StorageError: something of this sum is missing.
        """
        record = None if step == "adverts" else self.folder.step()
        paths: dict[str, str] = {}
        if record is not None:
            paths["message"] = str(self.folder.next)
            paths["state"] = _put(scratch / f"before-{STATE_FILE}", record.state)
            if record.directory:
                paths["directory"] = _put(scratch / f"before-{DIRECTORY_FILE}", record.directory)
        for name, path in (("root", self._peers.root), ("peers", self._peers.registry)):
            if path is not None:
                paths[name] = str(path)
        return SumStepJob(
            step=step,
            plan=self._plan(work),
            device=self._device,
            out=str(scratch),
            vector=str(self.folder.vector),
            weight=self.folder.weight(),
            **paths,  # type: ignore[arg-type]  # all of them are paths
        )

    def finish(self, work: Work, step: SumStepName, scratch: Path) -> bytes:
        """Sign, seal and store what the trainer computed; return the message's id.

        Raises:
            LocalProtocolError: the trainer asks for a signature of something else (a bug of ours).
        """
        before = self.folder.step()
        directory = b"" if before is None else before.directory
        if step == "shares":
            directory = read_bytes(scratch / DIRECTORY_FILE, max_bytes=MAX_MESSAGE_BYTES)
        if step == "inputs" and (terms := _terms(work)).noise_multiplier is not None:
            # Also if the sum is abandoned: this device cannot know what others will see of it.
            self._noise.charge(work.task, work.round, noise_multiplier=claimed_multiplier(terms))
        update_id = os.urandom(_UPDATE_ID_BYTES)
        record = StepRecord(
            task=work.task,
            round=work.round,
            step=step,
            update_id=update_id,
            state=read_bytes(scratch / STATE_FILE, max_bytes=_STATE_BYTES),
            directory=directory,
            envelope=self._envelope(work, step, update_id, self._signed(step, scratch)),
        )
        self.folder.save_step(record)
        return update_id

    def envelope(self, update_id: bytes) -> bytes:
        """Return the message with this id.

        Raises:
            StorageError: it is missing.
        """
        record = self.folder.step()
        if record is None or record.update_id != update_id:
            raise StorageError(f"the message {update_id.hex()} of a secure sum is missing")
        return record.envelope

    def take_next(self, following: SumNext) -> None:
        """Keep the service's message durably."""
        self.folder.save_next(pack_body(following))

    def _plan(self, work: Work) -> SumPlan:
        n_params = self.folder.vector.stat().st_size // 4
        facts = {"fleet": self._fleet, "task": work.task}
        return SumPlan.of(_terms(work), **facts, round_=work.round, version=work.version, n_params=n_params)

    def _signed(self, step: SumStepName, scratch: Path) -> bytes:
        reply = read_bytes(scratch / REPLY_FILE, max_bytes=MAX_MESSAGE_BYTES)
        statement = read_bytes(scratch / STATEMENT_FILE, max_bytes=_STATEMENT_BYTES)
        if step not in _SIGNED:
            return reply
        label, cls = _SIGNED[step]
        said = cbor.loads(statement, max_bytes=_STATEMENT_BYTES)
        if not isinstance(said, list) or said[:3] != ["edgefold secure sum", 1, label]:
            raise LocalProtocolError(f"the trainer asks for a signature that is none of the step {step}")
        return pack(replace(unpack(cls, reply), signature=self._key.sign(statement)))

    def _envelope(self, work: Work, step: SumStepName, update_id: bytes, message: bytes) -> bytes:
        unsealed = SumStep(
            task=work.task,
            round=work.round,
            version=work.version,
            bundle_id=work.bundle_id,
            step=step,
            update_id=update_id,
            sealed=b"\0",
        )
        info = step_binding(fleet=self._fleet, device=self._device, step=unsealed)
        body = replace(unsealed, sealed=seal(message, public_raw=work.task_key, info=info))
        return sign(body, fleet=self._fleet, sender=self._device, key=self._key)


def _terms(work: Work) -> SumTerms:
    if work.secure_sum is None:
        raise LocalProtocolError("this work asks for no secure sum")
    return work.secure_sum


def _put(path: Path, data: bytes) -> str:
    # Not durable: a crash takes the scratch folder with it, and the step begins again.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(data)
    return str(path)
