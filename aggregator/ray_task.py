"""What a node of a Ray cluster runs for a fold: one sealed job in, one sealed answer out.

Laws: it knows nothing but its job, where the blobs are and the cluster's secret, and writes nothing anywhere; the same
job gives the same sum on every node, so Ray may run it again wherever it likes. Object storage's keys are the node's
own, from its environment or files.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator.blob_place import open_blobs
from aggregator.fold_secret import FoldSecret
from aggregator.fold_worker import answer, place_from

if TYPE_CHECKING:
    from aggregator.blob_place import BlobPlace

__all__ = ["sum_sealed"]


@functools.lru_cache(maxsize=4)
def _tools(place: str, secret: str) -> tuple[BlobPlace, FoldSecret]:
    return open_blobs(place_from(place)), FoldSecret.load(Path(secret))


def sum_sealed(place: str, secret: str, sealed: bytes) -> bytes:
    """Return the sealed answer to a sealed job; ``secret`` is its file's path on every node.

    Raises:
        ConfigError: this node has no secret, or cannot reach the blobs (the operator's fault).
        TrustError: the job was made without the secret.
    """
    blobs, key = _tools(place, secret)
    job = key.open_job(sealed)
    kind, data = answer(job, blobs)
    return key.seal_sum(kind + data, job=job)
