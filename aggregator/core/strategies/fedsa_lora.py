"""FedSA-LoRA: A is shared and averaged, B (and a head, if asked) is each device's own and never leaves it.

Source:
    Guo et al.: Selective Aggregation for Low-Rank Adaptation in Federated Learning, ICLR 2025, arXiv:2410.01463: A
    learns what is general, B what is the client's; ``A = sum p_i A_i``.
    Departures: whether the head is personal as well is an option (there it is).
The service's own metrics measure A with the bundle's B, which is zero: a personal adapter is measured on its device.
The device's half is ``edge_agent/trainer/selected.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aggregator.core.folding import Needs, Strategy
from aggregator.core.strategies.fedavg import fold, init
from protocol.plan import DeviceTerms

if TYPE_CHECKING:
    from aggregator.core.folding import TermsContext

__all__ = ["STRATEGY", "Options", "terms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``[task.strategy_options]`` of fedsa-lora."""

    personal_head: bool = True


def terms(options: Options, context: TermsContext) -> DeviceTerms:  # noqa: ARG001 - a strategy's signature
    """Return what stays on the device."""
    return DeviceTerms(personal_roles=("lora_B", "head") if options.personal_head else ("lora_B",))


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="LoRA with A shared and B personal: what is sent is less than half",
    source="Guo et al. 2025, arXiv:2410.01463",
    needs=Needs(device="personal roles, kept on the device", layout="lora", secure_sum=False, central_dp=False),
    options=Options,
    terms=terms,
)
