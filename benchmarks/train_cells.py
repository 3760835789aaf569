"""The cells of ``bench_train``: one family trained in one way, or the reason why that cannot be.

Laws: every cell is a process of its own and every bundle an ``edgefold export`` of its own, so that a cell that fails
is a gap with a reason and nothing more. Bundles are kept in ``out/bench/train`` under a digest of what makes them, and
exported again when that changes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.residency import in_small_pages, train_watched
from benchmarks.train_cases import LABELS, Case, write_examples
from edge_agent.trainer.batches import batches_in_order
from edge_agent.trainer.datasets import open_dataset
from export.engines import LITERT_TASKS, NEEDS
from host.bundle_folder import open_bundle
from host.engines import environment_of
from models.samples import sample_folder
from protocol.errors import BundleError, EdgefoldError
from protocol.jobs import TrainJob
from protocol.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PEERS", "Cell", "Gap", "Prepared", "Way", "export_cells", "prepare", "run_cell"]

KEPT: Final = Path("out/bench/train")
PEERS: Final = ("eager", "sdpa", "compile")
DEADLINE_S: Final = 1800.0
MB: Final = 2**20


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """How a family is trained: an engine with a precision, or one of ``PEERS`` of PyTorch."""

    engine: str
    precision: str = "fp32"

    @property
    def is_peer(self) -> bool:
        """Return whether it is PyTorch."""
        return self.engine in PEERS

    @property
    def name(self) -> str:
        """Return it in words."""
        return f"PyTorch {self.engine}" if self.is_peer else f"{self.engine} {self.precision}"


@dataclass(frozen=True, slots=True)
class Gap:
    """Why a cell cannot be."""

    why: str


Cell = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A family ready to be trained in every way."""

    case: Case
    model: Path  # a Hugging Face folder
    data: Path
    batches: Path  # the same examples, for PyTorch
    scratch: Path
    threads: int
    n_steps: int


def export_cells(case: Case, ways: Sequence[Way], model: str) -> dict[Way, Path | Gap]:
    """Return the bundle of each of ``ways``, which are engines of one precision, or why there is none.

    One bundle for all engines that can be; if its export fails, one for each. A bundle that is there from before is
    used. ``model`` is what ``write_model`` said. Called by several threads at once: it starts processes and waits.
    """
    found: dict[Way, Path | Gap] = {}
    for way in ways:
        missing = [one.why for name in NEEDS[way.engine] if (one := environment_of(name)).state != "installed"]
        if missing:
            found[way] = Gap(f"{missing[0]}; or make engines")
        elif way.engine == "litert" and case.task not in LITERT_TASKS:
            found[way] = Gap(f"LiteRT's batches are filled up with examples that must not count; {case.task} cannot")
    able = [way for way in ways if way not in found]
    together = _exported(case, able, model)
    if isinstance(together, Gap) and len(able) > 1:
        return found | {way: _exported(case, [way], model) for way in able}
    return found | dict.fromkeys(able, together)


def _exported(case: Case, ways: Sequence[Way], model: str) -> Path | Gap:
    """Return a bundle with the engines of ``ways``, exported unless it is there; or why there is none."""
    engines = tuple(dict.fromkeys(("portable", *(way.engine for way in ways))))
    folder = KEPT / f"{case.name}-{'-'.join(engines)}-{ways[0].precision}-{_digest(case)}"
    try:
        open_bundle(folder)
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        why = _export(case, engines, ways[0].precision, folder, model)
        if why is not None:
            return Gap(why)
    in_small_pages(folder)
    return folder


def _export(case: Case, engines: Sequence[str], precision: str, folder: Path, model: str) -> str | None:
    """Export a bundle in a process of its own; return why not, None if it is there."""
    options = ["--task", case.task, "--quantize", precision, "--engines", ",".join(engines), "--out", str(folder)]
    if case.has_labels:
        options += ["--labels", str(LABELS)]
    if case.tokens:
        options += ["--max-tokens", str(case.tokens)]
        if "litert" in engines:
            options += ["--litert-shapes", f"{case.batch}x{case.tokens}"]
    command = [sys.executable, "-m", "edgefold", "export", model, *options, "--json"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        return f"its export took more than {DEADLINE_S:.0f} s"
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("{")]
    return None if done.returncode == 0 else (lines or [f"exit code {done.returncode}"])[-1][:300]


def _digest(case: Case) -> str:
    """Return a digest of what makes a bundle: the exporter's and the models' sources, and the case's."""
    root = Path(__file__).parent.parent
    files = sorted([*root.glob("export/*.py"), *root.glob("models/*.py"), root / "benchmarks/train_cases.py"])
    digest = hashlib.sha256(case.name.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def prepare(case: Case, bundle: Path, model: str, scratch: Path, *, n_steps: int, threads: int) -> Prepared:
    """Write the examples of a case, and the same examples as batches."""
    opened = open_bundle(bundle)
    data = write_examples(case, opened, n_steps * case.batch, scratch)
    examples = open_dataset(opened, data, max_tokens=case.tokens or 1, max_examples=n_steps * case.batch)
    batches = list(batches_in_order(examples, batch_size=case.batch))[:n_steps]
    path = scratch / f"{case.name}-batches.npz"
    arrays = {f"{step}/{name}": array for step, batch in enumerate(batches) for name, array in batch.items()}
    np.savez(path, allow_pickle=False, **arrays)
    folder = Path(model) if case.sample is None else sample_folder(case.sample)
    return Prepared(
        case=case, model=folder, data=data, batches=path, scratch=scratch, threads=threads, n_steps=len(batches)
    )


def run_cell(ready: Prepared, way: Way, bundle: Path | None) -> Cell | Gap:
    """Train a family in one way in a process; ``bundle`` is None for PyTorch."""
    if bundle is None:
        return _run_torch(ready, way.engine)
    case = ready.case
    plan = Plan(batch_size=case.batch, max_tokens=case.tokens or 64)
    job = TrainJob(
        bundle=str(bundle),
        data=str(ready.data),
        out=str(ready.scratch),
        plan=plan,
        threads=ready.threads,
        engine=way.engine,
        max_examples=ready.n_steps * case.batch,
    )
    try:
        result, memory = train_watched(job, deadline_s=DEADLINE_S)
    except EdgefoldError as error:
        return Gap(str(error)[:300])
    step_s = (result.train_s - result.first_step_s) / max(result.n_steps - 1, 1)
    return {
        "step_s": step_s,
        "first_step_s": result.first_step_s,
        "peak_mb": memory.peak_bytes / MB,
        "working_set_mb": memory.working_set_bytes / MB,
    }


def _run_torch(ready: Prepared, mode: str) -> Cell | Gap:
    if mode == "compile" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return Gap("torch.compile's inductor needs a C++ compiler, and there is none here (apt-get install g++)")
    case = ready.case
    options = ["--model", str(ready.model), "--task", case.task, "--batches", str(ready.batches), "--mode", mode]
    options += ["--threads", str(ready.threads), *(["--labels", str(LABELS)] if case.has_labels else [])]
    command = [sys.executable, "-m", "benchmarks.torch_peer", *options]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        return Gap(f"it took more than {DEADLINE_S:.0f} s")
    if done.returncode != 0:
        return Gap(([line for line in done.stderr.splitlines() if line.strip()] or ["it failed"])[-1][:300])
    cost = json.loads(done.stdout.splitlines()[-1])
    return {
        "step_s": (cost["train_s"] - cost["first_step_s"]) / max(cost["n_steps"] - 1, 1),
        "first_step_s": cost["first_step_s"],
        "peak_mb": cost["peak_memory_bytes"] / MB,
        "working_set_mb": cost["peak_memory_bytes"] / MB,  # its weights are its own memory
    }
