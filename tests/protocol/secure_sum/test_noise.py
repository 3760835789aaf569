"""The place for distributed noise: added before the mask, from secret bytes of this sum, the same after a restart."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.errors import ConfigError
from protocol.secure_sum import device
from protocol.secure_sum.device_state import pack_state, unpack_state
from protocol.secure_sum.quantise import Quantiser
from protocol.secure_sum.roster import quantiser_of
from tests.protocol.secure_sum.parties import Parties, Party, plan_for

N_PARAMS = 40
ROOM = 1000


class NoisyParties(Parties):
    """Every device adds integers of its own; ``noise[name]`` remembers the seeds and what was added."""

    def answer(self, step: str, party: Party, data: bytes) -> bytes:
        if step != "inputs":
            return super().answer(step, party, data)
        state = party.state
        assert state is not None
        if self.restart:
            state = unpack_state(pack_state(state))
        party.state, reply = device.take_delivery(
            state, data, vector=party.vector, weight=party.weight, key=party.key, noise=self.adder(party.name)
        )
        return reply

    def adder(self, name: str) -> device.Noise:
        def add(levels: np.ndarray, secret: bytes) -> np.ndarray:  # type: ignore[type-arg]
            drawn = np.random.default_rng(list(secret)).integers(-ROOM // 10, ROOM // 10 + 1, levels.size)
            self.noise.setdefault(name, []).append((secret, drawn))
            return levels + drawn

        return add

    def __post_init__(self) -> None:
        super().__post_init__()
        self.noise: dict[str, list[tuple[bytes, np.ndarray]]] = {}  # type: ignore[type-arg]


def expected(parties: NoisyParties, names: set[str]) -> np.ndarray:  # type: ignore[type-arg]
    quantiser = quantiser_of(parties.plan)
    total = parties.expected(names).astype(np.int64)
    total[:-1] += sum(parties.noise[name][-1][1] for name in names)
    return (total % 2**quantiser.bits).astype(np.uint32)


@pytest.mark.parametrize("restart", [False, True])
def test_the_sum_is_the_levels_and_the_noise_of_the_survivors_alone(*, restart: bool) -> None:
    parties = NoisyParties(
        plan_for(N_PARAMS, noise_levels=ROOM, dropout_fraction=0.3),
        6,
        drops={"inputs": [1], "consents": [4]},
        restart=restart,
    )
    parties.run_until()
    assert parties.server.step == "done"
    survivors = set(parties.noise)
    assert len(survivors) == 5  # the one that fell silent before it sent anything added nothing
    assert parties.server.total().tobytes() == expected(parties, survivors).tobytes()
    mean = quantiser_of(parties.plan).decode(parties.server.total())
    assert mean.weight == sum(parties.parties[name].weight for name in survivors)


def test_each_device_and_each_sum_has_noise_of_its_own() -> None:
    secrets = set()
    for round_ in (3, 4):
        parties = NoisyParties(plan_for(N_PARAMS, noise_levels=ROOM, round=round_), 4)
        parties.run_until()
        secrets |= {one[0][0] for one in parties.noise.values()}
    assert len(secrets) == 2 * 4
    assert all(len(one) == 32 for one in secrets)


def test_a_step_that_is_taken_again_adds_the_same_noise() -> None:
    """A crash before the state is stored: the device that masks again sends the same bytes, or two sums tell apart."""
    parties = NoisyParties(plan_for(N_PARAMS, noise_levels=ROOM), 4)
    messages = parties.run_until("inputs")
    name, data = next(iter(messages.items()))
    party = parties.parties[name]
    before = party.state
    first = parties.answer("inputs", party, data)
    party.state = before
    assert parties.answer("inputs", party, data) == first


def test_the_room_for_noise_is_part_of_what_is_signed() -> None:
    assert plan_for(noise_levels=ROOM).digest != plan_for().digest != plan_for(noise_levels=ROOM + 1).digest


def test_a_plan_whose_noise_has_no_room_is_refused_before_anything_is_promised() -> None:
    facts = {"n_params": 1, "clip": 1.0, "weight_cap": 1, "input_bits": 8, "max_cohort": 3}
    with pytest.raises(ConfigError, match="at most 32"):
        Quantiser(**facts, noise_levels=2**31)  # type: ignore[arg-type]
