"""What colluders and server see together does not depend on an honest input, beyond what the sum says.

Everything that the server receives and the colluders hold is used to strip as many masks as they can; what is left is
tested on a tiny modulus, where every value comes up often.
"""

from __future__ import annotations

import numpy as np
import pytest

from protocol.secure_sum import keys, masks, quantise, shamir
from protocol.secure_sum.device_state import DeviceView
from protocol.secure_sum.messages import MaskedInput, unpack
from protocol.secure_sum.roster import quantiser_of
from tests.protocol.secure_sum.parties import Parties, name_of, plan_for, seed

# Chi-squared with 7 degrees of freedom exceeds 29.9 once in 10,000 times; the seeds are fixed, so this is no lottery.
CHI2_7_DF = 29.9
N_VALUES = 8000


def chi_squared(values: np.ndarray, n_cells: int) -> float:
    counts = np.bincount(values, minlength=n_cells)
    expected = values.size / n_cells
    return float(((counts - expected) ** 2 / expected).sum())


def stripped(inputs: dict[int, float], salt: int) -> tuple[dict[int, np.ndarray], int]:
    """Return what is left of the honest devices 0 and 1 after device 2 and the server used all they have."""
    plan = plan_for(n_params=N_VALUES, input_bits=2, max_cohort=3, weight_cap=1)
    run = Parties(plan, 3, salt=salt)
    for i, party in enumerate(run.parties.values()):
        party.vector = np.full(N_VALUES, inputs[i], np.float32)
        party.weight = 1
    run.run_until("unmasking")
    colluder = run.parties[name_of(2)].state
    assert colluder is not None
    view, quantiser, left = DeviceView.of(colluder), quantiser_of(plan), {}
    for i in (0, 1):
        values = unpack(MaskedInput, run.sent["inputs", name_of(i)]).values
        y = quantise.unpack(values, n_values=quantiser.n_values, bits=quantiser.bits)
        masks.subtract_mask(y, view.mask_seed(i))  # the honest index is the lower one, so it had added
        honest = run.parties[name_of(i)].state
        assert honest is not None
        own = keys.derive(honest.secret("self seed"), "self-mask stream", view.setting.digest)
        masks.subtract_mask(y, own)  # they learn it when the sum is unmasked
        left[i] = (y & quantiser.mask)[:-1].astype(np.int64)
    return left, 2**quantiser.bits


@pytest.mark.parametrize("inputs", [{0: 1.0, 1: 0.0, 2: 1.0}, {0: 0.0, 1: 1.0, 2: 1.0}, {0: -1.0, 1: 1.0, 2: 0.0}])
def test_the_view_of_a_colluder_and_the_server_is_uniform_given_the_sum(inputs: dict[int, float]) -> None:
    left, modulus = stripped(inputs, salt=1)
    assert modulus == 8
    level = quantise_level(inputs[0]) + quantise_level(inputs[1])
    np.testing.assert_array_equal((left[0] + left[1]) % modulus, level % modulus)  # all that they can know
    assert chi_squared(left[0], modulus) < CHI2_7_DF  # and nothing of which of the two it was
    assert chi_squared(left[1], modulus) < CHI2_7_DF


def quantise_level(value: float) -> int:
    return int(value)  # with 3 bits and 3 devices there are the levels -1, 0 and 1


def test_the_test_would_notice_a_missing_mask() -> None:
    left, modulus = stripped({0: 1.0, 1: 0.0, 2: 1.0}, salt=1)
    unmasked = (left[0] + left[1]) % modulus
    assert chi_squared(unmasked, modulus) > 100 * CHI2_7_DF


def test_masked_vectors_alone_are_uniform() -> None:
    plan = plan_for(n_params=N_VALUES, input_bits=2, max_cohort=3, weight_cap=1)
    run = Parties(plan, 3)
    for party in run.parties.values():
        party.vector, party.weight = np.ones(N_VALUES, np.float32), 1
    run.run_until("consents")
    for name in run.parties:
        values = unpack(MaskedInput, run.sent["inputs", name]).values
        y = quantise.unpack(values, n_values=N_VALUES + 1, bits=3)
        assert chi_squared(y[:-1].astype(np.int64), 8) < CHI2_7_DF


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_shares_below_the_threshold_are_uniform_whatever_the_secret(secret: bytes) -> None:
    shares = shamir.share([secret] * N_VALUES, range(3), threshold=3, seed=seed("uniform"))
    for limb in (0, 8):
        first = np.array([int.from_bytes(one[0][4 * limb : 4 * limb + 4], "little") for one in shares])
        second = np.array([int.from_bytes(one[1][4 * limb : 4 * limb + 4], "little") for one in shares])
        for values in (first, second, (first + 5 * second) % shamir.PRIME):
            assert chi_squared(values >> 28, 8) < CHI2_7_DF
            assert chi_squared(values & 7, 8) < CHI2_7_DF


def test_no_two_secrets_of_a_round_share_a_key() -> None:
    run = Parties(plan_for(), 5)
    run.run_until("unmasking")
    derived = []
    for party in run.parties.values():
        assert party.state is not None
        view = DeviceView.of(party.state)
        derived += [party.state.secret(label) for label in ("self seed", "mask key", "seal key", "rounding")]
        derived += [view.seal_key(sender=view.index, receiver=other) for other in view.neighbours]
        derived += [view.mask_seed(other) for other in view.neighbours if view.index < other]
    assert len(set(derived)) == len(derived)


def test_both_ends_of_a_mask_agree_on_it() -> None:
    run = Parties(plan_for(), 4)
    run.run_until("unmasking")
    views = [DeviceView.of(party.state) for party in run.parties.values() if party.state is not None]
    assert views[0].mask_seed(3) == views[3].mask_seed(0)
    assert views[0].seal_key(sender=0, receiver=3) == views[3].seal_key(sender=0, receiver=3)
