"""Repeats what a bundle promises with the runtime alone: integrity, and the first optimiser steps of its parity report.

A graph of single examples is held against the bundle's training graph, an example at a time.

Laws: no torch; the bundle is only read; a device can run it. It shows that this machine's runtime computes what PyTorch
computed where the bundle was made, not that the parity report is honest (signing is for that).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.parity import TOLERANCE, run_engine
from export.problems import Inputs, Problem, make_problem
from host.arrays import load_vector
from host.bundle_folder import Bundle, open_bundle
from host.durable import read_bytes
from host.engines import SPECS, environment_of
from protocol.bundle import ADAPTER, PARITY
from protocol.errors import BundleError, EngineError

if TYPE_CHECKING:
    from export.example_errors import ExampleErrors

__all__ = ["Verified", "verify"]

PORTABLE = "portable"
N_STEPS = 4  # two of them with one example or an odd size; the fourth loss depends on three updates
MAX_PARITY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found."""

    id: str
    n_files: int
    n_bytes: int
    steps: int
    max_relative_loss_error: float  # of this machine's runtimes to the PyTorch that made the bundle
    engines: dict[str, float]  # the same for each engine that this machine has
    skipped: dict[str, str]  # the bundle's other engines, and why they were not run
    examples: "ExampleErrors | None" = None  # of the graph of single examples; None: no device would use one


def verify(folder: Path) -> Verified:
    """Check the bundle in ``folder`` on this machine.

    Raises:
        BundleError: a file is not what the manifest says, or the graphs cannot be loaded.
        EngineError: this machine's runtime computes something else.
    """
    bundle = open_bundle(folder)
    seed, vocabulary, expected = _read_parity(bundle)
    manifest = bundle.manifest
    problem = make_problem(
        load_vector(bundle.path(ADAPTER), n_values=manifest.adapter.n_params),
        bundle.layout,
        Inputs(
            kind=manifest.task.kind,
            vocabulary=vocabulary,
            max_tokens=manifest.tokens.max_tokens if manifest.tokens is not None else None,
            images=manifest.images,
            series=manifest.series,
            n_labels=manifest.task.n_labels,
            dropout=manifest.dropout,
        ),
        seed=seed,
        n_steps=min(N_STEPS, len(expected)),
    )
    engines = {name: environment_of(name) for name in manifest.engines if name in SPECS}
    errors = {name: _error(folder, problem, name, expected) for name, one in engines.items() if not one.why}
    if not errors:
        raise EngineError("; ".join(one.why for one in engines.values()) or f"{folder}: no engine of it is known here")
    return Verified(
        id=bundle.id,
        n_files=len(manifest.files),
        n_bytes=sum(facts.bytes for facts in manifest.files.values()),
        steps=len(problem.batches),
        max_relative_loss_error=max(errors.values()),
        engines=errors,
        skipped={name: one.why for name, one in engines.items() if one.why},
        examples=_example_errors(bundle, problem) if PORTABLE in errors else None,
    )


def _example_errors(bundle: Bundle, problem: Problem) -> "ExampleErrors | None":
    files = bundle.manifest.engines[PORTABLE]
    if files.per_example is None or bundle.manifest.dropout is not None:  # with dropout devices take one by one
        return None
    from export.example_errors import compare_examples, one_by_one  # noqa: PLC0415 - onnxruntime, not needed otherwise

    alone = one_by_one(bundle.path(files.train), problem, n_batches=1)
    return compare_examples(
        bundle.path(files.per_example), problem, alone, what=f"the training graph {files.train} here"
    )


def _error(folder: Path, problem: Problem, engine: str, expected: list[float]) -> float:
    """Return the largest relative error of the losses that ``engine`` computes here."""
    actual = run_engine(folder, problem, engine=engine).losses
    pairs = zip(expected, actual, strict=False)
    error = max(abs(e - a) / abs(e) if np.isfinite(a) else np.inf for e, a in pairs)
    if not error <= TOLERANCE.loss:
        message = f"{folder}: {engine}: this machine's losses are off by {error:.1e} (at most {TOLERANCE.loss:.0e})"
        raise EngineError(message)
    return float(error)


def _read_parity(bundle: Bundle) -> tuple[int, int | None, list[float]]:
    """Return seed, vocabulary (None without text) and the reference's losses."""
    try:
        report = json.loads(read_bytes(bundle.path(PARITY), max_bytes=MAX_PARITY_BYTES))
        seed, losses = int(report["seed"]), [float(x) for x in report["losses"]]
        vocabulary = None if bundle.manifest.tokens is None else int(report["vocabulary"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{bundle.folder}: {PARITY} is no parity report of format 1: {error}"
        raise BundleError(message) from error
    is_text_known = vocabulary is None or vocabulary > 0
    if not (seed >= 0 and is_text_known and losses and all(np.isfinite(losses)) and all(losses)):
        message = f"{bundle.folder}: {PARITY} holds impossible numbers"
        raise BundleError(message)
    return seed, vocabulary, losses
