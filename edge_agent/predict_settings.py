"""``[predict]`` of a device: who on this machine may ask the model, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import Length, Name, Range

__all__ = ["PredictSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictSettings:
    """``[predict]``: the local endpoint; always on 127.0.0.1."""

    port: Annotated[int, Range(0, 65535)] | None = None  # none: no endpoint; 0: any free one, see state/local
    task: Name | None = None  # of several; otherwise the one that brought work last
    labels: Annotated[tuple[Annotated[str, Length(1, 256)], ...], Length(0, 100_000)] = ()  # names; none: the bundle's
    threads: Annotated[int, Range(1, 256)] = 1  # a prediction is short, and the owner's programs go first
    max_body_bytes: Annotated[int, Range(64, 64 * 2**20)] = 1 << 20  # a request; a picture of 224 x 224 has 200 kB
    max_inputs: Annotated[int, Range(1, 4096)] = 32  # of one request, computed as one batch: bounds memory
    # The newest version is asked for, where others trained it, so often at most; None: only work brings one.
    fetch_every_s: Annotated[float, Range(60.0, 1e7)] | None = 3600.0
    max_connections: Annotated[int, Range(1, 256)] = 8  # at once; further ones wait, none is refused
