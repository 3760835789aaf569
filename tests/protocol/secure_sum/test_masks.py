from __future__ import annotations

import numpy as np
import pytest

from protocol.secure_sum import masks
from tests.protocol.secure_sum.parties import seed


def test_the_keystream_is_chacha20_of_rfc_8439() -> None:
    # RFC 8439, appendix A.1, test vector 1: key, nonce and counter all zero.
    stream = masks.keystream(bytes(32), 16).astype("<u4").tobytes().hex()
    assert stream.startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert stream.endswith("da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586")


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 200_000])
def test_what_is_added_can_be_taken_away_whatever_the_length(size: int) -> None:
    values = np.arange(size, dtype=np.uint32)
    masks.add_mask(values, seed(1))
    np.testing.assert_array_equal(values, np.arange(size, dtype=np.uint32) + masks.keystream(seed(1), size))
    masks.subtract_mask(values, seed(1))
    np.testing.assert_array_equal(values, np.arange(size, dtype=np.uint32))


def test_a_longer_keystream_begins_like_a_shorter_one_and_never_repeats_a_block() -> None:
    stream = masks.keystream(seed(2), 200_000)
    np.testing.assert_array_equal(stream[:1000], masks.keystream(seed(2), 1000))
    assert not np.array_equal(stream[:65_536], stream[65_536:131_072])
    assert not np.array_equal(stream[:1000], masks.keystream(seed(3), 1000))
