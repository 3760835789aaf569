"""How large an honest message and an honest update can be at most; anything larger is refused.

Must live here: the bounds and their derivation. Does not know about: who sent what.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from protocol.bounds import ENVELOPE_OVERHEAD_BYTES
from protocol.codec import payload_bytes
from protocol.secure_sum.messages import ADVERT_BYTES, KEY_BYTES, SEALED_BYTES
from protocol.secure_sum.quantise import packed_bytes

if TYPE_CHECKING:
    from protocol.plan import Codec, Plan
    from protocol.secure_sum.quantise import Quantiser

__all__ = ["MAX_NORM_WITHOUT_CLIP", "max_message_bytes", "max_next_bytes", "max_step_bytes", "max_update_norm"]

# float32 ends at 3e38: with each update below this, no number of rounds that anybody runs makes the adapter overflow.
# It is also the largest clip that a plan can ask for.
MAX_NORM_WITHOUT_CLIP: Final = 1e9
# The device clips in float32 and we sum in float64; at 10^8 values the two norms differ by less than this.
_ARITHMETIC_SLACK: Final = 1e-3
_NAME_BYTES: Final = 66  # of a device, with its CBOR head
_CERTIFICATE_BYTES: Final = 1024  # ours have 500 to 700
_INT8_LEVELS: Final = 127
_FLOAT16_RELATIVE: Final = 2.0**-11  # half a unit in the last place of 11 significant bits (IEEE 754 binary16)
_FLOAT16_ABSOLUTE: Final = 2.0**-25  # half the smallest subnormal


def max_message_bytes(plan: Plan, n_params: int) -> int:
    """Return the length of the longest honest update message for ``plan``, envelope and seal included."""
    return payload_bytes(plan.codec, n_params) + ENVELOPE_OVERHEAD_BYTES


def max_step_bytes(quantiser: Quantiser) -> int:
    """Return the length of a device's longest honest message in a secure sum, envelope and seal included.

    It is the masked vector or, with a small adapter and many devices, a sealed pair of shares for each neighbour.
    """
    masked = packed_bytes(quantiser.n_values, quantiser.bits)
    return max(masked, SEALED_BYTES * quantiser.max_cohort) + ENVELOPE_OVERHEAD_BYTES


def max_next_bytes(max_cohort: int) -> int:
    """Return the length of the service's longest message in a secure sum: a roster with all certificates."""
    return max_cohort * (_NAME_BYTES + KEY_BYTES + ADVERT_BYTES + _CERTIFICATE_BYTES) + ENVELOPE_OVERHEAD_BYTES


def max_update_norm(plan: Plan, n_params: int) -> float:
    """Return the largest L2 norm that an honest device's *decoded* delta can have.

    A device clips its delta to C, adds the residual e of its earlier encodings and encodes x, |x| <= C + |e|. With a
    codec whose rounding error is at most r |x| + a, the residual settles at |e| <= (r C + a) / (1 - r), and what we
    decode is at most |x| + (r |x| + a). Both bounds together:

        (1 + r) (C + (r C + a) / (1 - r)) + a  =  ((1 + r) C + 2 a) / (1 - r)

    For int8 in blocks of 64 that is 1.065 C.
    """
    if plan.clip_update_norm is None:
        return MAX_NORM_WITHOUT_CLIP
    relative, absolute = _rounding_error(plan.codec, n_params)
    bound = ((1 + relative) * plan.clip_update_norm + 2 * absolute) / (1 - relative)
    return bound * (1 + _ARITHMETIC_SLACK)


def _rounding_error(codec: Codec, n_params: int) -> tuple[float, float]:
    """Return r and a such that an encoding errs by at most r |x| + a."""
    match codec.name:
        case "float32":
            return 0.0, 0.0
        case "float16":
            return _FLOAT16_RELATIVE, _FLOAT16_ABSOLUTE * math.sqrt(n_params)
        case "int8-block":
            # The scale is the block's maximum M / 127, and no error exceeds M / 254. The worst block has one value M,
            # which is exact, and B - 1 values of M / 254, which all round to zero.
            others = min(codec.block, n_params) - 1
            error = others / (2 * _INT8_LEVELS) ** 2
            return math.sqrt(error / (1 + error)), 0.0
