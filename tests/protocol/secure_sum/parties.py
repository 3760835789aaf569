"""A whole secure sum in memory: n devices and a server over a wire that drops, restarts and lies as a test says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from protocol.secure_sum import device
from protocol.secure_sum.device_state import DeviceState, pack_state, unpack_state
from protocol.secure_sum.messages import SumPlan
from protocol.secure_sum.server import SumServer
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

STEPS = ("adverts", "shares", "inputs", "consents", "unmasking")


def seed(*facts: object) -> bytes:
    """Return 32 bytes that are the same in every run."""
    return hashlib.sha256(repr(facts).encode()).digest()


def plan_for(n_params: int = 5, **changes: object) -> SumPlan:
    facts: dict[str, object] = {
        "fleet": "home",
        "task": "sum",
        "round": 3,
        "version": 2,
        "n_params": n_params,
        "clip": 1.0,
        "weight_cap": 100,
    }
    return SumPlan(**(facts | changes))  # type: ignore[arg-type]


def name_of(index: int) -> str:
    return f"device-{index:04d}"


@dataclass
class Party:
    name: str
    key: SigningKey
    vector: NDArray[np.float32]
    weight: int
    state: DeviceState | None = None


@dataclass
class Parties:
    """``drops[step]`` are the devices that fall silent from that step on; ``restart`` packs all state at each step."""

    plan: SumPlan
    n: int
    drops: Mapping[str, Collection[int]] = field(default_factory=dict)
    restart: bool = False
    salt: object = 0
    sent: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.n)
        self.parties = {
            name_of(i): Party(
                name_of(i),
                SigningKey(seed("key", i)),
                rng.uniform(-1, 1, self.plan.n_params).astype(np.float32),
                int(rng.integers(1, self.plan.weight_cap + 1)),
            )
            for i in range(self.n)
        }
        self.directory = {name: party.key.public for name, party in self.parties.items()}
        self.server = SumServer(plan=self.plan, directory=self.directory)
        self.gone: set[str] = set()

    def answer(self, step: str, party: Party, data: bytes) -> bytes:
        """Let one device take its step."""
        if party.state is not None and self.restart:
            party.state = unpack_state(pack_state(party.state))
        state = party.state
        if step == "adverts":
            party.state, reply = device.advertise(
                self.plan, name=party.name, key=party.key, entropy=seed("entropy", party.name, self.salt)
            )
            return reply
        assert state is not None
        if step == "shares":
            party.state, reply = device.take_roster(state, data, directory=self.directory)
        elif step == "inputs":
            party.state, reply = device.take_delivery(
                state, data, vector=party.vector, weight=party.weight, key=party.key
            )
        elif step == "consents":
            party.state, reply = device.take_survivors(state, data, directory=self.directory, key=party.key)
        else:
            party.state, reply = device.take_agreement(state, data, directory=self.directory)
        return reply

    def run_until(self, last: str | None = None) -> dict[str, bytes]:
        """Run the steps before ``last`` (all, if None) and return the messages that the server would send next."""
        messages = dict.fromkeys(self.parties, b"")
        for step in STEPS:
            self.gone |= {name_of(i) for i in self.drops.get(step, ())}
            if step == last:
                return messages
            for name, data in messages.items():
                if name in self.gone:
                    continue
                reply = self.answer(step, self.parties[name], data)
                self.sent[step, name] = reply
                self.restarted()
                self.server.receive(name, reply)
            self.restarted()
            messages = self.server.close()
            if self.server.step == "aborted":
                return {}
        return messages

    def restarted(self) -> None:
        if self.restart:
            self.server = SumServer.unpack(self.server.pack(), directory=self.directory)

    def expected(self, names: Collection[str]) -> NDArray[np.uint32]:
        """Return the sum of the named devices' encoded vectors, by the slow and obvious way."""
        from protocol.secure_sum.roster import quantiser_of

        quantiser = quantiser_of(self.plan)
        total = [0] * quantiser.n_values
        for name in names:
            encoded = quantiser.encode(self.parties[name].vector, self.parties[name].weight)
            total = [(a + int(b)) % 2**quantiser.bits for a, b in zip(total, encoded, strict=True)]
        return np.array(total, np.uint32)
