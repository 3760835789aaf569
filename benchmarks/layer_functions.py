"""What would functions save? A graph's repeated layers written once, as local functions of the ONNX model.

The alternative to plain repetition that ``bench_export`` holds against it (ADR 0028). Repetition is found in the list
of operations itself: the period after which operations, attributes and wiring come again the most often, taken
out again and again, so that forward and backward each become one function and a call for each layer.

Laws: the same values by the same operations in the same order; weights and constants become inputs of the calls, since
a function sees nothing of the graph around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Final

import onnx

__all__ = ["outlined"]

DOMAIN: Final = "edgefold.layers"
LEAST_NODES, MOST_NODES = 24, 400  # of a repetition: a shorter one is no layer, and a longer one several
MOST_FUNCTIONS: Final = 4

Wire = tuple[int, int]  # of the operations of one repetition: the number of the operation, and of its output


@dataclass(frozen=True, slots=True)
class _Run:
    """Where operations repeat."""

    start: int
    period: int
    times: int

    @property
    def saved(self) -> int:
        """Return how many operations need not be written."""
        return self.period * (self.times - 1)


def outlined(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return the model with repeated operations as functions, and how many operations are written once less."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    saved = 0
    for number in range(MOST_FUNCTIONS):
        run = _longest(list(found.graph.node))
        if run is None:
            break
        _outline(found, run, f"layer_{number}")
        saved += run.saved
    del found.graph.value_info[:]
    return found, saved


def _longest(nodes: list[onnx.NodeProto]) -> _Run | None:
    """Return the repetition that saves most; None if nothing long repeats."""
    produced = {name: place for place, node in enumerate(nodes) for name in node.output}
    kinds = [_kind(node) for node in nodes]
    back = [tuple(place - produced.get(name, place) for name in node.input) for place, node in enumerate(nodes)]
    best: _Run | None = None
    for period in range(LEAST_NODES, min(MOST_NODES, len(nodes) // 2) + 1):
        near = (tuple(step if 0 < step < period else 0 for step in steps) for steps in back)
        marks = list(zip(kinds, near, strict=True))
        length = 0
        for place in range(period, len(nodes)):
            length = length + 1 if marks[place] == marks[place - period] and nodes[place].domain != DOMAIN else 0
            if length >= period:
                run = _Run(place - length - period + 1, period, length // period + 1)
                if best is None or run.saved > best.saved:
                    best = run
    return best


def _kind(node: onnx.NodeProto) -> tuple[object, ...]:
    """Return what must be equal of two operations that stand in the same place, beside where their inputs come from."""
    attributes = tuple(sorted(one.SerializeToString(deterministic=True) for one in node.attribute))
    return node.op_type, attributes, len(node.output)


def _outline(model: onnx.ModelProto, run: _Run, name: str) -> None:
    nodes = list(model.graph.node)
    parts = [nodes[run.start + n * run.period : run.start + (n + 1) * run.period] for n in range(run.times)]
    kept = {value.name for value in model.graph.output}
    wires = [
        {value: (at, which) for at, node in enumerate(part) for which, value in enumerate(node.output)}
        for part in parts
    ]
    inside = _inside(parts, wires)
    slots = _inputs(parts, inside)
    outputs = _outputs(nodes, wires, run, kept)
    function = model.functions.add(name=name, domain=DOMAIN)
    function.opset_import.extend(model.opset_import)
    names = (f"i{number}" for number in count())
    given = {slot: value for group in slots for value in [next(names)] for slot in group}
    function.input.extend(dict.fromkeys(given.values()))
    function.output.extend(_local(wire) for wire in outputs)
    for at, node in enumerate(parts[0]):
        copy = function.node.add(op_type=node.op_type, domain=node.domain, attribute=node.attribute)
        for which in range(len(node.input)):
            empty = not node.input[which]
            copy.input.append("" if empty else given.get((at, which)) or _local(inside[at, which]))
        copy.output.extend(_local((at, which)) if value else "" for which, value in enumerate(node.output))
    calls = [
        onnx.NodeProto(
            op_type=name,
            domain=DOMAIN,
            input=[part[group[0][0]].input[group[0][1]] for group in slots],
            output=[part[at].output[which] for at, which in outputs],
        )
        for part in parts
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[: run.start], *calls, *nodes[run.start + run.times * run.period :]])
    if DOMAIN not in {one.domain for one in model.opset_import}:
        model.opset_import.add(domain=DOMAIN, version=1)


def _local(wire: Wire) -> str:
    return f"v{wire[0]}_{wire[1]}"


def _inside(parts: list[list[onnx.NodeProto]], wires: list[dict[str, Wire]]) -> dict[Wire, Wire]:
    """Return (operation, input) -> the wire that it reads, where that is the same within every repetition."""
    found = {}
    for at, node in enumerate(parts[0]):
        for which in range(len(node.input)):
            read = {own.get(part[at].input[which]) for part, own in zip(parts, wires, strict=True)}
            wire = next(iter(read))
            if len(read) == 1 and wire is not None:
                found[at, which] = wire
    return found


def _inputs(parts: list[list[onnx.NodeProto]], inside: dict[Wire, Wire]) -> list[list[Wire]]:
    """Return the places that are read from outside, those together that read one value in every repetition."""
    groups: dict[tuple[str, ...], list[Wire]] = {}
    for at, node in enumerate(parts[0]):
        for which, value in enumerate(node.input):
            if value and (at, which) not in inside:
                groups.setdefault(tuple(part[at].input[which] for part in parts), []).append((at, which))
    return list(groups.values())


def _outputs(nodes: list[onnx.NodeProto], wires: list[dict[str, Wire]], run: _Run, kept: set[str]) -> list[Wire]:
    """Return the wires that something outside of its repetition reads, in any of them."""
    found: set[Wire] = set()
    for number, own in enumerate(wires):
        first = run.start + number * run.period
        others = nodes[:first] + nodes[first + run.period :]
        read = kept | {value for node in others for value in node.input}
        found |= {wire for value, wire in own.items() if value and value in read}
    return sorted(found)
