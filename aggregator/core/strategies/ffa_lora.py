"""FFA-LoRA: A stays what the bundle drew, only B (and what is not LoRA) is trained and sent; averaging B is exact.

Source:
    Sun, Li, Li, Ding: Improving LoRA in Privacy-preserving Federated Learning, ICLR 2024, arXiv:2403.12313, section 3:
    ``dW = B A_0``, so ``sum p_i B_i A_0 = (sum p_i B_i) A_0``, and noise on B stays linear in dW.
    Departures: a new head is trained and averaged too, where the paper freezes it.
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
    """Return that A is frozen, always."""
    return DeviceTerms(frozen_roles=("lora_A",))


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="LoRA with A frozen for good: averaging is exact, updates are about half",
    source="Sun et al. 2024, arXiv:2403.12313",
    needs=Needs(device="frozen roles", layout="lora", secure_sum=False, central_dp=False),
    terms=terms,
)
