"""The strategies by name; one paper a file."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from aggregator.core.strategies import (
    coordinate_robust,
    fedavg,
    fedavgm,
    fedbuff,
    fedex_lora,
    fedit,
    fedopt,
    fedprox,
    fedsa_lora,
    ffa_lora,
    flexlora,
    flora,
    hetlora,
    multi_krum,
    norm_bounding,
    rolora,
    scaffold,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.core.folding import Strategy

__all__ = ["STRATEGIES"]

STRATEGIES: Final[Mapping[str, Strategy]] = MappingProxyType(
    {
        "fedavg": fedavg.STRATEGY,
        "fedavgm": fedavgm.STRATEGY,
        "fedprox": fedprox.STRATEGY,
        "scaffold": scaffold.STRATEGY,
        "fedadagrad": fedopt.FEDADAGRAD,
        "fedadam": fedopt.FEDADAM,
        "fedyogi": fedopt.FEDYOGI,
        "fedbuff": fedbuff.STRATEGY,
        "fedit": fedit.STRATEGY,
        "ffa-lora": ffa_lora.STRATEGY,
        "rolora": rolora.STRATEGY,
        "fedsa-lora": fedsa_lora.STRATEGY,
        "flora": flora.STRATEGY,
        "fedex-lora": fedex_lora.STRATEGY,
        "hetlora": hetlora.STRATEGY,
        "flexlora": flexlora.STRATEGY,
        "coordinate-median": coordinate_robust.MEDIAN,
        "trimmed-mean": coordinate_robust.TRIMMED_MEAN,
        "multi-krum": multi_krum.STRATEGY,
        "norm-bounding": norm_bounding.STRATEGY,
    }
)
