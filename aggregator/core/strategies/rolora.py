"""RoLoRA: rounds train B and A in turn, so each round's averaging is exact and both factors learn.

Source:
    Chen et al.: Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA, NeurIPS 2025,
    arXiv:2502.01755: odd rounds freeze A and average B, even rounds the reverse.
    Departures: the turn follows the version, not the round's number, so that an abandoned round does not skip one;
    a head is trained in every round. The frozen factor has no optimiser state at all.
The device's half is ``edge_agent/trainer/selected.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aggregator.core.folding import Needs, Strategy
from aggregator.core.strategies.fedavg import fold, init
from protocol.plan import DeviceTerms

if TYPE_CHECKING:
    from aggregator.core.folding import NoOptions, TermsContext

__all__ = ["STRATEGY", "terms"]


def terms(options: NoOptions, context: TermsContext) -> DeviceTerms:  # noqa: ARG001 - a strategy's signature
    """Return which factor rests: A first, since B begins at zero and A's gradient with it."""
    return DeviceTerms(frozen_roles=("lora_A",) if context.version % 2 == 0 else ("lora_B",))


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="LoRA with B and A in turn: averaging is exact, updates are about half",
    source="Chen et al. 2025, arXiv:2502.01755",
    needs=Needs(device="frozen roles, by round", layout="lora", secure_sum=False, central_dp=False),
    terms=terms,
)
