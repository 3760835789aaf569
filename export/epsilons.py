"""Pass: keep small constants that are added, a norm's epsilon above all, through the lowering.

The lowering's optimiser drops ``x + c`` where a scalar ``c`` is within 1e-8 of zero (onnxscript 0.7's pattern constants
have that tolerance). RMSNorm with an epsilon of 1e-8 or 1e-12 then divides by zero wherever a row is zero, such as a
padding token's. A constant of one axis is no scalar and is left alone.

Laws: exact; the same shapes; running it twice changes nothing more.
"""

import torch
from torch.fx import Graph, Node

__all__ = ["keep_epsilons"]

aten = torch.ops.aten
_SUMS = frozenset({aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar})
_DROPPED_BELOW = 1e-7  # above the tolerance


def keep_epsilons(graph: Graph) -> int:
    """Write each small number that is added to or taken from a tensor as a tensor [1]; return how many there were.

    Requires: example values in ``meta["val"]``.
    """
    n_kept = 0
    for node in list(graph.nodes):
        if node.target not in _SUMS or len(node.args) < 2 or not _is_small(node.args[1]):
            continue
        source = node.args[0]
        if not isinstance(source, Node) or source.meta["val"].dim() == 0:
            continue
        dtype = source.meta["val"].dtype
        with graph.inserting_before(node):
            value = graph.call_function(aten.full.default, ([1], node.args[1]), {"dtype": dtype})
        value.meta["val"] = torch.full((1,), float(node.args[1]), dtype=dtype)
        node.target = aten.add.Tensor if node.target in {aten.add.Tensor, aten.add.Scalar} else aten.sub.Tensor
        node.update_arg(1, value)
        n_kept += 1
    return n_kept


def _is_small(value: object) -> bool:
    return isinstance(value, float) and 0 < abs(value) < _DROPPED_BELOW
