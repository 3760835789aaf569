"""The graph of a bundle that clips each example's gradient by itself: what goes in, what comes out, on which grid.

    in   theta, the task's batch, ``COUNTS`` float32 [batch] of zeros and ones, ``CLIP`` float32 []
    out  ``LOSSES``, ``NORMS`` float32 [batch], ``POINTS`` int32 [n_params]

``POINTS`` is the sum over examples of ``trunc(RADIUS gradient / max(norm, clip))``, so the clip is ``RADIUS`` points
long and one example's part of the sum is at most that; an example that counts zero has none. A loss is that of a batch
of one, and a norm is the L2 norm of its gradient over all trained tensors, both before the clip and whether it counts
or not.

Laws: constants alone, which exporter and trainer share. ``MAX_ROWS`` examples at once never overflow 32 bits.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CLIP", "COUNTS", "LOSSES", "MAX_ROWS", "NORMS", "POINTS", "RADIUS"]

# Points of the grid in a clip. Rounding towards zero costs at most sqrt(n_params) / RADIUS of it: 0.03 % at 75,000.
RADIUS: Final = 1 << 20
MAX_ROWS: Final = 1024

COUNTS: Final = "counts"
CLIP: Final = "clip"
LOSSES: Final = "losses"
NORMS: Final = "norms"
POINTS: Final = "points"
