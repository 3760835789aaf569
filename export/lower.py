"""Pass: a traced step becomes an ONNX model of standard operators.

Laws: only the ``ai.onnx`` domain, opset 20, IR version at most 10 and no functions leave this pass, so that any
onnxruntime that reads opset 20 runs the result; inputs and outputs carry the names of the bundle's contract.
Weights stay inside the model; ``pack.py`` moves them out.
"""

from typing import cast

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from export.epsilons import keep_epsilons
from export.trace import Step
from protocol.errors import LocalProtocolError

__all__ = ["IR_VERSION", "OPSET", "lower"]

OPSET = 20  # the first with Gelu, the last that onnxruntime 1.19 (onnxruntime-training's) knows in full
IR_VERSION = 10  # what onnxruntime 1.19 reads at most
STANDARD_DOMAINS = frozenset({"", "ai.onnx"})


class _Closed(nn.Module):
    """A step with its frozen tensors as buffers: a module of (theta, *batch), which is what can be lowered."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._graph = step.graph
        self._names = [f"w__{name.replace('.', '__')}" for name in step.frozen]
        for name, value in zip(self._names, step.frozen.values(), strict=True):
            self.register_buffer(name, value)

    def forward(self, theta: Tensor, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        frozen = [getattr(self, name) for name in self._names]
        return cast("tuple[Tensor, ...]", self._graph(frozen, theta, *batch))


def lower(step: Step) -> ir.Model:
    """Return the ONNX model of a step.

    Requires: a graph of core ATen operations with symbolic sizes, as ``trace`` ensures.
    Ensures: the laws above; inputs ``theta`` and ``step.inputs``, outputs ``step.outputs``.

    Raises:
        LocalProtocolError: the lowering broke a law (our fault: a tool's new version behaves otherwise).
    """
    keep_epsilons(step.graph.graph)
    step.graph.recompile()
    sizes = tuple(dict.fromkeys(axes, Dim.AUTO) for axes in step.free)
    with torch.no_grad():
        program = export(_Closed(step), (step.theta, step.batch), dynamic_shapes=(None, sizes), strict=False)
        lowered = torch.onnx.export(
            program,
            (step.theta, step.batch),
            dynamo=True,
            optimize=True,
            opset_version=OPSET,
            input_names=["theta", *step.inputs],
            output_names=list(step.outputs),
            verbose=False,
        )
    if lowered is None:
        message = "torch.onnx.export returned nothing"
        raise LocalProtocolError(message)
    model = lowered.model
    _check(model, step)
    return model


def _check(model: ir.Model, step: Step) -> None:
    domains = set(model.opset_imports) | {node.domain for node in model.graph}
    if not domains <= STANDARD_DOMAINS or model.functions:
        message = f"lowering left operators outside the standard: {sorted(domains)}, {len(model.functions)} functions"
        raise LocalProtocolError(message)
    if model.opset_imports[""] != OPSET or model.ir_version > IR_VERSION:
        message = f"lowering gave opset {model.opset_imports['']} and IR {model.ir_version}"
        raise LocalProtocolError(message)
    names = ([v.name for v in model.graph.inputs], [v.name for v in model.graph.outputs])
    if names != (["theta", *step.inputs], list(step.outputs)):
        message = f"lowering gave inputs {names[0]} and outputs {names[1]}"
        raise LocalProtocolError(message)
