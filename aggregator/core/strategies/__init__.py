"""The strategies by name; one paper a file."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from aggregator.core.folding import Strategy
from aggregator.core.strategies import fedavg

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["STRATEGIES"]

STRATEGIES: Final[Mapping[str, Strategy]] = MappingProxyType({"fedavg": Strategy(init=fedavg.init, fold=fedavg.fold)})
