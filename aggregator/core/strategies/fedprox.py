"""FedProx: each device's loss has a term that holds it near the adapter that it was given; the fold is FedAvg's.

Source:
    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous Networks, MLSys 2020,
    arXiv:1812.06127, Algorithm 2: client k minimises ``F_k(w) + mu / 2 |w - w_t|^2``; gradient ``+ mu (w - w_t)``.
    Departures: devices are weighted by examples in the mean, not drawn with that probability; the term acts on the
    factors of LoRA, not on their product.
The device's half is ``edge_agent/trainer/proximal.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from aggregator.core.folding import Needs, Strategy
from aggregator.core.strategies.fedavg import fold, init
from protocol.fields import Range
from protocol.plan import DeviceTerms

if TYPE_CHECKING:
    from aggregator.core.folding import TermsContext

__all__ = ["STRATEGY", "Options", "terms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``[task.strategy_options]`` of fedprox."""

    mu: Annotated[float, Range(0.0, 1e6)] = 0.01  # the paper tries 0.001 to 1; 0 is federated averaging


def terms(options: Options, context: TermsContext) -> DeviceTerms:  # noqa: ARG001 - a strategy's signature
    """Return the proximal term's weight, for every device."""
    return DeviceTerms(proximal_mu=options.mu)


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="averaging of devices that are held near the global adapter",
    source="Li et al. 2020, arXiv:1812.06127",
    needs=Needs(device="a proximal term (mu)", secure_sum=True, central_dp=True),
    options=Options,
    terms=terms,
)
