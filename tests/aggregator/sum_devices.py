"""Devices that take part in a secure sum on the memory wire, by the pure steps of ``protocol.secure_sum.device``."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aggregator.privacy_settings import PrivacySettings, SecureSumSettings
from protocol.messages import Work
from protocol.sealing import seal, step_binding
from protocol.secure_sum import device
from protocol.secure_sum.messages import SumPlan
from protocol.secure_sum.roster import quantiser_of
from protocol.sum_round import SumNext, SumNextName, SumStep, SumStepName
from tests.aggregator.workbench import FLEET, N_PARAMS, Bench, Device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from protocol.secure_sum.device_state import DeviceState

STEPS: tuple[SumStepName, ...] = ("adverts", "shares", "inputs", "consents", "unmasking")
NEEDS: dict[SumStepName, SumNextName] = {
    "shares": "roster",
    "inputs": "delivery",
    "consents": "survivors",
    "unmasking": "agreement",
}
PRIVACY = PrivacySettings(
    level="secure-sum",
    secure_sum=SecureSumSettings(clip=1.0, weight_cap=100, dropout_fraction=0.2, step_deadline_s=20.0),
)
SETTINGS: dict[str, Any] = {"privacy": PRIVACY, "cohort": 5, "min_cohort": 3, "rounds": 1}


class SumDevice(Device):
    """A device with a vector of its own."""

    def __init__(self, bench: Bench, name: str) -> None:
        super().__init__(bench, name)
        bench.devices[name] = self.key.public
        self.weight = 1 + len(name) + ord(name[-1]) % 50
        self.state: DeviceState | None = None
        self.sent: dict[SumStepName, SumStep] = {}

    def vector(self) -> NDArray[np.float32]:
        rng = np.random.default_rng([*self.name.encode()])
        return rng.uniform(-1, 1, N_PARAMS).astype(np.float32)

    def plan(self) -> SumPlan:
        work = self.last(Work)
        assert work.secure_sum is not None
        facts = {"fleet": FLEET, "task": work.task}
        return SumPlan.of(work.secure_sum, **facts, round_=work.round, version=work.version, n_params=N_PARAMS)

    def message(self, step: SumStepName) -> bytes | None:
        """Take a step; None if what it needs has not come."""
        if step == "adverts":
            entropy = hashlib.sha256(self.name.encode() + bytes([self.last(Work).round])).digest()
            self.state, reply = device.advertise(self.plan(), name=self.name, key=self.key, entropy=entropy)
            return reply
        needed = [one for one in self.all(SumNext) if one.step == NEEDS[step] and one.round == self.last(Work).round]
        if not needed or self.state is None:
            return None
        state, data, keys = self.state, needed[0].message, self.bench.devices
        if step == "shares":
            self.state, reply = device.take_roster(state, data, directory=keys)
        elif step == "inputs":
            made = device.take_delivery(state, data, vector=self.vector(), weight=self.weight, key=self.key)
            self.state, reply = made
        elif step == "consents":
            self.state, reply = device.take_survivors(state, data, directory=keys, key=self.key)
        else:
            self.state, reply = device.take_agreement(state, data, directory=keys)
        return reply

    def send(self, step: SumStepName, message: bytes | None = None, **changes: Any) -> SumStep | None:
        """Take the step, or say ``message``; return what was sent."""
        message = self.message(step) if message is None else message
        if message is None:
            return None
        work = self.last(Work)
        body = SumStep(
            task=work.task,
            round=work.round,
            version=work.version,
            bundle_id=work.bundle_id,
            step=step,
            update_id=hashlib.sha256(message + step.encode()).digest()[:16],
            sealed=b"\0",
        )
        body = replace(body, **changes)
        info = step_binding(fleet=FLEET, device=self.name, step=body)
        body = replace(body, sealed=seal(message, public_raw=work.task_key, info=info))
        self.sent[step] = body
        self.publish(body, "sum-step")
        return body

    def again(self, step: SumStepName) -> None:
        """Send the very same message once more."""
        self.publish(self.sent[step], "sum-step")


def make(bench: Bench, n: int = 5) -> list[SumDevice]:
    """Return devices that were handed work."""
    devices = [SumDevice(bench, f"dev-{chr(ord('a') + i)}") for i in range(n)]
    for one in devices:
        one.join()
        bench.settle()
    return devices


def expected(bench: Bench, devices: list[SumDevice]) -> NDArray[np.float32]:
    """Return the adapter that the plain sum of the same quantised vectors gives, by the slow and obvious way."""
    quantiser = quantiser_of(devices[0].plan())
    total = np.zeros(quantiser.n_values, np.uint32)
    for one in devices:
        total += quantiser.encode(one.vector(), one.weight)
    result = quantiser.decode(total & quantiser.mask)
    mean = result.mean.astype(np.float32)
    folded = np.multiply(mean, result.weight, dtype=np.float64) / result.weight + bench.runner.versions.adapter(0)
    return np.asarray(folded, np.float32)
