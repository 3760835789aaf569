"""Pass: says where the weights that LoRA adapts lie, so that a version may change them (``protocol.open_base``).

The lowering gives weights names of its own, folds transposes of small ones and so may store one both ways round. So a
weight is found by its values, in both orientations, in both graphs, and then it is *tried*: the graphs with changed
weights must give the loss, the gradient and the scores of PyTorch's model with the same change.

Laws: all of a bundle's LoRA pairs may be changed, or none; none where a weight is stored in fewer bits, is shared with
something else, or IA3 stands between it and its pair. What is tried is what is written.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from export.adapt import Adapted
from export.problems import make_problem
from export.reference import one_step
from export.runtime import Graph
from host.base_change import changed_base
from host.bundle_folder import Bundle
from protocol.lora_pairs import LoraPair, lora_pairs
from protocol.open_base import BaseWeight, GraphName, OpenBase, Stored

__all__ = ["BaseTensor", "add_change", "base_tensors", "holds", "keys_of", "open_weights"]

# Of the largest value. A weight that a graph does not read in all places shows above 1e-2; rounding was below 1e-5.
TOLERANCE = 1e-3
CHANGE = 0.05  # standard deviation of what is tried, of the size of a weight of these models
_LORA_A = ".lora_A.default.weight"  # peft's name of the first factor, beside ``base_layer``


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseTensor:
    """The weight beside one LoRA pair, in the adapted PyTorch model."""

    pair: LoraPair
    parameter: Tensor
    is_transposed: bool  # the model keeps it as [n_in, n_out]

    @property
    def values(self) -> NDArray[np.float32]:
        """Return it as [n_out, n_in]."""
        own = self.parameter.detach().numpy()
        return np.ascontiguousarray(own.T if self.is_transposed else own)


def keys_of(tensors: Sequence[BaseTensor]) -> frozenset[bytes]:
    """Return the SHA-256 of each weight's bytes, both ways round."""
    return frozenset(_ways(tensors))


def base_tensors(adapted: Adapted) -> tuple[BaseTensor, ...]:
    """Return the weights beside the LoRA pairs in the layout's order; none if they cannot be changed on a device."""
    if adapted.table or "ia3" in adapted.recipe.parts:
        return ()
    parameters = dict(adapted.model.named_parameters())
    of_pair = {part.name.removesuffix(".lora_A"): part.parameter for part in adapted.trainables}
    found = []
    for pair in lora_pairs(adapted.layout):
        layer = of_pair[pair.name].removesuffix(_LORA_A)
        is_transposed = isinstance(adapted.model.get_submodule(f"{layer}.base_layer"), Conv1D)
        weight = parameters[f"{layer}.base_layer.weight"]
        found.append(BaseTensor(pair=pair, parameter=weight, is_transposed=is_transposed))
    # Two with the same content, or one that is its own transpose, cannot be told from each other in a graph.
    return tuple(found) if len(keys_of(found)) == 2 * len(found) else ()


def open_weights(tensors: tuple[BaseTensor, ...], graphs: dict[GraphName, ir.Model]) -> OpenBase | None:
    """Return where ``tensors`` lie in graphs that ``pack`` has written; None: not each in both, or read as more.

    Requires: ``pack`` was told to put them outside of the graphs.
    """
    ways = _ways(tensors)
    stored: list[list[Stored]] = [[] for _ in tensors]
    for graph, model in graphs.items():
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype != ir.DataType.FLOAT:
                continue
            way = ways.get(hashlib.sha256(tensor.tobytes()).digest())
            if way is None:
                continue
            if any(use.node.op_type not in {"Gemm", "MatMul"} for use in value.uses()):
                return None  # an embedding, say, that shares it
            at, is_transposed = way
            stored[at].append(Stored(graph=graph, name=name, offset=tensor.offset or 0, is_transposed=is_transposed))
    if not tensors or any({one.graph for one in places} != {"train", "evaluate"} for places in stored):
        return None
    weights = (
        BaseWeight(
            pair=one.pair.name,
            n_out=one.pair.dense_shape[0],
            n_in=one.pair.dense_shape[1],
            stored=tuple(places),
        )
        for one, places in zip(tensors, stored, strict=True)
    )
    return OpenBase(weights=tuple(weights))


def _trial(tensors: Sequence[BaseTensor], *, seed: int) -> NDArray[np.float32]:
    """Return a change to try, float32 [n_dense]."""
    n_dense = sum(one.pair.n_dense for one in tensors)
    return np.random.default_rng(seed).normal(0, CHANGE, n_dense).astype(np.float32)


def holds(bundle: Bundle, adapted: Adapted, tensors: Sequence[BaseTensor], *, seed: int) -> bool:
    """Return whether the bundle's graphs with changed weights do what PyTorch's model with changed weights does.

    Requires: a checked bundle with its ``base.json``.
    """
    change = _trial(tensors, seed=seed)
    problem = make_problem(adapted.theta, adapted.layout, adapted.inputs, seed=seed, n_steps=1)
    with _changed(tensors, change):
        loss, gradient, scores = one_step(adapted, problem)
    base, files = changed_base(bundle, change), bundle.manifest.engines["portable"]
    feeds = {"theta": problem.theta, **problem.batches[0]}
    its_loss, its_gradient = Graph(bundle.path(files.train), base.train).outputs(feeds)
    its_scores = Graph(bundle.path(files.evaluate), base.evaluate).run(feeds)
    pairs = ((np.array(loss), its_loss), (gradient, its_gradient), (scores, its_scores))
    return all(_apart(ours, its) <= TOLERANCE for ours, its in pairs)


def add_change(tensors: Sequence[BaseTensor], change: NDArray[np.float32]) -> None:
    """Add ``change``, float32 [n_dense], to the base weights of PyTorch's model."""
    offset = 0
    with torch.no_grad():
        for one in tensors:
            part = torch.from_numpy(change[offset : offset + one.pair.n_dense].reshape(one.pair.dense_shape))
            one.parameter.add_(part.T if one.is_transposed else part)
            offset += one.pair.n_dense


@contextlib.contextmanager
def _changed(tensors: Sequence[BaseTensor], change: NDArray[np.float32]) -> Iterator[None]:
    """Let PyTorch's model have ``change``, float32 [n_dense], in its base weights; afterwards they are as before."""
    before = [one.parameter.detach().clone() for one in tensors]
    try:
        add_change(tensors, change)
        yield
    finally:
        with torch.no_grad():
            for one, own in zip(tensors, before, strict=True):
                one.parameter.copy_(own)


def _ways(tensors: Sequence[BaseTensor]) -> dict[bytes, tuple[int, bool]]:
    """Return by content which weight it is, and whether it lies transposed."""
    found = {_key(one.values.T): (at, True) for at, one in enumerate(tensors)}
    return found | {_key(one.values): (at, False) for at, one in enumerate(tensors)}


def _key(values: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).digest()


def _apart(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the largest difference relative to the largest value; NaN, which no bound takes, if one is not finite."""
    return float(np.abs(expected - found).max() / max(float(np.abs(expected).max()), 1e-30))
