"""What the service asks a device to do with its examples in one round: the plan of a task, part of each ``Work``.

Laws: every figure is bounded here, so that an agent can hand a plan to its trainer as it came; what is absent is not
asked for; a field of before never changes its meaning, since plans of earlier rounds lie in databases and on devices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from protocol.continual import ContinualTerms  # noqa: TC001 - structure() resolves the annotations
from protocol.fields import Length, Range
from protocol.layout import Role

__all__ = ["Codec", "DeviceTerms", "Optimizer", "Plan", "SampleDp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """The local optimiser; ``beta1`` is SGD's momentum, ``beta2`` and ``epsilon`` are AdamW's."""

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Range(1e-9, 10.0)] = 1e-3
    weight_decay: Annotated[float, Range(0.0, 1.0)] = 0.01
    beta1: Annotated[float, Range(0.0, 0.9999)] = 0.9
    beta2: Annotated[float, Range(0.0, 0.99999)] = 0.999
    epsilon: Annotated[float, Range(1e-12, 1e-2)] = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How a vector is encoded; ``block`` values share a scale in ``int8-block``."""

    name: Literal["float32", "float16", "int8-block"] = "int8-block"
    block: Annotated[int, Range(8, 65536)] = 64


_Roles: TypeAlias = Annotated[tuple[Role, ...], Length(1, 16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTerms:
    """What a strategy asks of a device beyond plain local training; all absent, it asks nothing (docs/strategies.md).

    An agent that does not know a term refuses the work, rather than train something else than it was asked to.
    """

    proximal_mu: Annotated[float, Range(0.0, 1e6)] | None = None  # weight of |w - w_t|^2 / 2
    # The adapter is followed by the service's control variate and the delta by the change of the device's own.
    has_controls: bool | None = None
    frozen_roles: _Roles | None = None  # tensors that are neither trained nor sent in this round
    personal_roles: _Roles | None = None  # tensors that are trained, stay on the device and are never sent
    lora_rank: Annotated[int, Range(1, 65536)] | None = (
        None  # of this device: the first so many rows of A, columns of B
    )
    # The adapter is followed by what is added to the base weights of the LoRA pairs (``protocol.lora_pairs``: dense).
    base_change: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDp:
    """Differential privacy of single examples, made on the device: DP-SGD with Poisson batches of ``Plan.batch_size``.

    The device draws coins and noise by itself and does not use ``Plan.seed`` for them.
    """

    clip: Annotated[float, Range(1e-6, 1e6)]  # L2 norm of one example's gradient, over all tensors
    noise_multiplier: Annotated[float, Range(0.05, 1e4)]  # the noise's standard deviation over the clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a device does with its examples in one round."""

    epochs: Annotated[int, Range(1, 1000)] = 1
    batch_size: Annotated[int, Range(1, 4096)] = 16
    micro_batch: Annotated[int, Range(1, 4096)] | None = None  # examples at once; the gradient stays the batch's
    max_tokens: Annotated[int, Range(1, 8192)] = 64
    optimizer: Optimizer = field(default_factory=Optimizer)
    clip_grad_norm: Annotated[float, Range(1e-6, 1e9)] | None = None
    clip_update_norm: Annotated[float, Range(1e-6, 1e9)] | None = None  # L2 of the delta before it is encoded
    codec: Codec = field(default_factory=Codec)
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    dp: SampleDp | None = None
    terms: DeviceTerms | None = None  # absent for plain federated averaging
    continual: ContinualTerms | None = None  # absent: each round is learnt as it comes
