"""A small LoRA layout and random fleets on it, with what their adapters do written out in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aggregator.core.folding import ADAPTER, FoldContext, Member, StrategyConfig, TermsContext
from aggregator.core.strategies import STRATEGIES
from aggregator.core.update_shape import shape_of
from protocol.layout import Layout, TensorSlot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import State

RANK, SCALE = 4, 2.0
SHAPES = {"q": (6, 5), "v": (3, 7)}  # n_out, n_in
OPTIONS: dict[str, dict[str, Any]] = {"scaffold": {"n_devices": 10}, "norm-bounding": {"max_norm": 0.5}}


def make_layout(rank: int = RANK) -> Layout:
    """Return two pairs and a head."""
    slots, offset = [], 0
    tensors: list[tuple[str, tuple[int, ...], str]] = []
    for name, (n_out, n_in) in SHAPES.items():
        tensors += [(f"{name}.lora_A", (rank, n_in), "lora_A"), (f"{name}.lora_B", (n_out, rank), "lora_B")]
    for name, shape, role in [*tensors, ("head.weight", (4,), "head")]:
        scale = SCALE if role != "head" else 1.0
        slot = TensorSlot(name=name, shape=shape, offset=offset, role=role, scale=scale)  # type: ignore[arg-type]
        slots.append(slot)
        offset += slot.n_values
    return Layout(tensors=tuple(slots))


LAYOUT = make_layout()


def tensor(vector: NDArray[np.floating], name: str, layout: Layout = LAYOUT) -> NDArray[np.float64]:
    """Return one tensor of a flat adapter, a copy in float64."""
    (slot,) = [slot for slot in layout.tensors if slot.name == name]
    return vector[slot.offset : slot.offset + slot.n_values].reshape(slot.shape).astype(np.float64)


def effect(vector: NDArray[np.floating], layout: Layout = LAYOUT) -> NDArray[np.float64]:
    """Return s B A of every pair, one after the other: what the adapter does to the base weights."""
    products = [tensor(vector, f"{n}.lora_B", layout) @ tensor(vector, f"{n}.lora_A", layout) for n in SHAPES]
    return np.concatenate([SCALE * one.reshape(-1) for one in products])


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Devices of one round, each with its delta and count of examples."""

    names: tuple[str, ...]
    deltas: tuple[NDArray[np.float32], ...]
    n_examples: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[NDArray[np.float32], int]]:
        """What a fold is given."""
        return list(zip(self.deltas, self.n_examples, strict=True))

    @property
    def shares(self) -> NDArray[np.float64]:
        """n_i / n."""
        counts = np.array(self.n_examples, np.float64)
        return counts / counts.sum()

    def mean_effect(self, before: NDArray[np.float32], layout: Layout = LAYOUT) -> NDArray[np.float64]:
        """Return sum p_i s B_i A_i of the local adapters."""
        local = [effect(before.astype(np.float64) + delta, layout) for delta in self.deltas]
        return np.einsum("k,kn->n", self.shares, np.stack(local))


def fleet_for(strategy: str, *, seed: int, n_devices: int, version: int = 0, layout: Layout = LAYOUT) -> Fleet:
    """Return random devices that keep to the strategy's terms."""
    rng = np.random.default_rng(seed)
    names = tuple(f"device-{index}" for index in range(n_devices))
    deltas = []
    for name in names:
        terms = STRATEGIES[strategy].terms(options_for(strategy), TermsContext(version=version, device=name))
        shape = shape_of(layout, terms)
        deltas.append(shape.expand(rng.normal(0, 0.1, shape.n_values).astype(np.float32)))
    return Fleet(
        names=names, deltas=tuple(deltas), n_examples=tuple(int(one) for one in rng.integers(1, 1000, n_devices))
    )


def options_for(strategy: str, **changes: Any) -> Any:
    """Return the strategy's options."""
    return STRATEGIES[strategy].options(**{**OPTIONS.get(strategy, {}), **changes})


def first_state(strategy: str, *, seed: int = 0, options: Any = None, layout: Layout = LAYOUT) -> State:
    """Return the state before the first round on a random adapter."""
    initial = np.random.default_rng([seed, 99]).normal(0, 0.3, layout.n_params).astype(np.float32)
    config = StrategyConfig(initial_adapter=initial, options=options or options_for(strategy))
    return STRATEGIES[strategy].init(layout, config)


def folded(
    strategy: str, state: State, fleet: Fleet, *, options: Any = None, version: int = 0, layout: Layout = LAYOUT
) -> State:
    """Return the state after one round of ``fleet``."""
    context = FoldContext(
        layout=layout,
        round=version + 1,
        version=version,
        options=options or options_for(strategy),
        members=tuple(Member(device=name) for name in fleet.names),
    )
    return STRATEGIES[strategy].fold(state, fleet.pairs, context)


def adapter_of(state: State) -> NDArray[np.float32]:
    """Return the adapter."""
    return state[ADAPTER]
