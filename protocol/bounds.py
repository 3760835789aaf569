"""The bounds that several messages share; each other field's bound stands beside the field.

Law: what a device or a service takes from outside is bounded before it is decoded, so these can be lowered by a caller
and never raised by a peer.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ENVELOPE_OVERHEAD_BYTES", "MAX_EXAMPLES", "MAX_MESSAGE_BYTES", "MAX_ROUND", "MAX_SPREAD_S"]

# A 5M-parameter adapter as float32 is 20 MB; MQTT itself ends at 256 MiB. Larger adapters need chunks, not a larger
# bound.
MAX_MESSAGE_BYTES: Final = 64 * 2**20
# Kind, names, signatures and CBOR heads of an envelope and an update around a payload; measured 1.5 kB with HPKE's
# 1,136, and 4.9 kB with a second signature.
ENVELOPE_OVERHEAD_BYTES: Final = 8192
MAX_EXAMPLES: Final = 10**9
MAX_ROUND: Final = 2**31
MAX_SPREAD_S: Final = 86_400.0  # a day: longer, and the round is over before a device calls
