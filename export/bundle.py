"""Assembles a bundle and puts it in its place whole, or not at all.

Laws: everything is built in a hidden folder beside the target, which is gone when this returns or raises; the target
appears by one rename, after every file was hashed and the graphs agreed with PyTorch; a folder that is no bundle is
never replaced. The bundle's id is the SHA-256 of its manifest, and equal input gives an equal id.
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from export.adapt import Adapted, Options, adapt
from export.engines import Steps, default_bucket, refuse_impossible, refuse_tables, write_engine
from export.load import Source, load
from export.lower import OPSET, lower
from export.memory_plan import plan_memory, sizes_for
from export.open_base import base_tensors, holds, keys_of, open_weights
from export.pack import pack
from export.parity import (
    CLIP_GRAD_NORM,
    TOLERANCE,
    Apart,
    Errors,
    Outcome,
    Report,
    compare,
    optimizer_of,
    run_engine,
)
from export.per_example import check_examples, refuse_large, trace_clipped
from export.problems import Problem, make_problem
from export.reference import run_torch
from export.trace import Step, trace
from host.bundle_folder import open_bundle
from host.durable import TEMP_PREFIX
from models.tasks import TASKS
from protocol.bundle import (
    ADAPTER,
    LAYOUT,
    MANIFEST,
    PARITY,
    WEIGHTS,
    AdapterFacts,
    Bucket,
    EngineFiles,
    FileFacts,
    Manifest,
    MemoryPeak,
    ModelFacts,
    TaskFacts,
    TokenFacts,
    bundle_id,
)
from protocol.errors import ConfigError, EngineError, StorageError
from protocol.open_base import OPEN_BASE

__all__ = ["Exported", "MemoryPlans", "ParityError", "Watch", "export_bundle", "trace_all"]

TRAIN, EVALUATE, TOKENIZER = "train.onnx", "eval.onnx", "tokenizer.json"
PER_EXAMPLE = "train-per-example.onnx"
TOOLS = ("edgefold", "torch", "transformers", "peft", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")
PORTABLE = "portable"
_CHUNK_BYTES = 1 << 20

# Called with the name of the pass that begins.
Watch = Callable[[str], None]


class ParityError(EngineError):
    """The exported graphs do not agree with PyTorch; nothing was written.

    Attributes:
        report: how far apart they are.
    """

    def __init__(self, report: Report) -> None:
        """Say which engine is apart, and by how much."""
        name, apart = list(report.by_engine.items())[-1]  # the last that was compared
        super().__init__(
            f"the graphs for the engine {name} do not agree with PyTorch over {report.steps} steps, nothing was "
            f"written: loss {apart.loss:.1e} (at most {TOLERANCE.loss:.0e}), "
            f"update {apart.update:.1e} (at most {TOLERANCE.update:.0e}), "
            f"logits {apart.logits:.1e} (at most {TOLERANCE.logits:.0e})"
        )
        self.report = report


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A bundle that was written."""

    folder: Path
    id: str
    manifest: Manifest
    report: Report
    n_bytes: int


class MemoryPlans(NamedTuple):
    """The predicted peaks of a trainer, by the graph that it runs."""

    train: tuple[MemoryPeak, ...]
    per_example: tuple[MemoryPeak, ...] | None


def export_bundle(  # noqa: PLR0913 - what a person chooses, and who watches
    model: str,
    options: Options,
    out: Path,
    *,
    engines: tuple[str, ...] = ("portable",),
    buckets: tuple[Bucket, ...] | None = None,
    watch: Watch = lambda _: None,
    announce: Callable[[Adapted], None] = lambda _: None,
) -> Exported:
    """Export ``model`` to the folder ``out``.

    Args:
        model: a Hugging Face folder, a hub id or a packaged sample's name.
        options: the adapter and the task.
        out: the bundle's folder; made, or replaced if it holds a bundle.
        engines: what the bundle can be trained with; ``portable`` among them.
        buckets: the shapes of LiteRT's signatures; None: one, of ``DEFAULT_BATCH`` and the longest text.
        watch: told each pass before it begins.
        announce: told what will be trained, before the passes that take long.

    Raises:
        ConfigError: the model, an option or ``out`` is no good.
        ParityError: the graphs do not agree with PyTorch.
        StorageError: the disk is full or read-only.
    """
    _refuse_strangers(out)
    refuse_impossible(
        engines, task=TASKS[options.task].kind, precision=options.precision, has_dropout=options.dropout > 0
    )
    watch("load")
    source = load(model, is_text=options.is_text)
    watch("adapt")
    adapted = adapt(source, options)
    if options.per_example:
        refuse_large(adapted.layout.n_params)
    refuse_tables(engines, adapted)
    announce(adapted)
    with _beside(out) as folder:
        steps, plans = _write_graphs(folder, adapted, options, watch)
        _write_rest(folder, source, adapted)
        shapes = buckets or (default_bucket(options.max_tokens if options.is_text else None),)
        single = PER_EXAMPLE if options.per_example else None
        files = {PORTABLE: EngineFiles(train=TRAIN, evaluate=EVALUATE, opset=OPSET, per_example=single)}
        for name in engines:
            if name != PORTABLE:
                watch(name)
                files[name] = write_engine(name, folder, Steps(*steps, EVALUATE, shapes), adapted)
        # A first manifest, so that the trainer process accepts the folder as it would accept the finished one.
        (folder / PARITY).write_bytes(b"{}\n")
        _write_manifest(folder, source, adapted, options, files, plans)
        watch("parity")
        if _close_base(folder, adapted, options):
            _write_manifest(folder, source, adapted, options, files, plans)
        report = _check(folder, adapted, options, engines)
        watch("seal")
        (folder / PARITY).write_bytes(report.to_bytes())
        manifest = _write_manifest(folder, source, adapted, options, files, plans)
        _put(folder, out)
    n_bytes = sum(facts.bytes for facts in manifest.files.values())
    return Exported(folder=out, id=bundle_id(manifest.to_bytes()), manifest=manifest, report=report, n_bytes=n_bytes)


def trace_all(adapted: Adapted, options: Options) -> tuple[Step, Step, Step | None]:
    """Return the steps of the portable graphs: training, evaluation, and single examples where they are asked for."""
    import torch  # noqa: PLC0415 - one tensor is made here

    theta = torch.from_numpy(adapted.theta.copy())
    train, evaluate = trace(
        adapted.model,
        adapted.task,
        adapted.trainables,
        theta=theta,
        max_tokens=options.max_tokens,
        checkpoint=options.checkpoint,
        dropout=adapted.inputs.dropout,
    )
    return train, evaluate, trace_clipped(adapted, options, theta=theta) if options.per_example else None


def _write_graphs(
    folder: Path, adapted: Adapted, options: Options, watch: Watch
) -> tuple[tuple[Step, Step], MemoryPlans]:
    """Write the portable graphs; return what was traced, and what training takes."""
    watch("trace")
    train, evaluate, single = trace_all(adapted, options)
    watch("lower")
    train_model, evaluate_model = lower(train), lower(evaluate)
    single_model = None if single is None else lower(single)
    graphs = {folder / TRAIN: train_model, folder / EVALUATE: evaluate_model}
    graphs |= {} if single_model is None else {folder / PER_EXAMPLE: single_model}
    watch("pack")
    tensors = base_tensors(adapted)
    pack(graphs, weights_path=folder / WEIGHTS, table=adapted.table, outside=keys_of(tensors))
    opened = open_weights(tensors, {"train": train_model, "evaluate": evaluate_model})
    if opened is not None:
        (folder / OPEN_BASE).write_bytes(opened.to_bytes())
    sizes, n_params = sizes_for(options.max_tokens if options.is_text else None), adapted.layout.n_params
    plans = MemoryPlans(
        train=plan_memory(train_model, sizes, n_params=n_params),
        per_example=None if single_model is None else plan_memory(single_model, sizes, n_params=n_params),
    )
    return (train, evaluate), plans


def _write_rest(folder: Path, source: Source, adapted: Adapted) -> None:
    (folder / LAYOUT).write_bytes(adapted.layout.to_bytes())
    (folder / ADAPTER).write_bytes(adapted.theta.astype("<f4").tobytes())
    if adapted.inputs.vocabulary is not None:
        (folder / TOKENIZER).write_bytes((source.folder / TOKENIZER).read_bytes())


def _close_base(folder: Path, adapted: Adapted, options: Options) -> bool:
    """Take ``base.json`` out again where the graphs with changed weights do something else; return whether."""
    if not (folder / OPEN_BASE).is_file():
        return False
    if holds(open_bundle(folder), adapted, base_tensors(adapted), seed=options.seed):
        return False
    (folder / OPEN_BASE).unlink()
    return True


def _check(folder: Path, adapted: Adapted, options: Options, engines: tuple[str, ...]) -> Report:
    """Return the parity report of every engine.

    Raises:
        ParityError: an engine does not agree with PyTorch.
    """
    problem = make_problem(adapted.theta, adapted.layout, adapted.inputs, seed=options.seed)
    expected = run_torch(adapted, problem)
    errors = {}
    for name in (PORTABLE, *(name for name in engines if name != PORTABLE)):
        errors[name] = compare(problem, expected, run_engine(folder, problem, engine=name))
        report = _report(adapted, options, problem, expected, errors)
        if not report.passed:
            raise ParityError(report)
    if options.per_example:
        apart = check_examples(folder / PER_EXAMPLE, adapted, problem)
        report = replace(report, per_example=asdict(apart))
    return report


def _report(
    adapted: Adapted, options: Options, problem: Problem, expected: Outcome, errors: dict[str, Errors]
) -> Report:
    loss, update, logits = errors[PORTABLE]
    others = {name: Apart(*found) for name, found in errors.items() if name != PORTABLE}
    return Report(
        reference=f"torch {version('torch')}",
        steps=len(problem.batches),
        seed=options.seed,
        vocabulary=adapted.inputs.vocabulary,
        shapes=tuple(batch[adapted.task.inputs[0]].shape for batch in problem.batches),
        optimizer=asdict(optimizer_of(problem)),
        clip_grad_norm=CLIP_GRAD_NORM,
        losses=expected.losses,
        max_relative_loss_error=loss,
        update_error=update,
        logits_error=logits,
        engines=others,
        tolerance=asdict(TOLERANCE),
    )


def _write_manifest(
    folder: Path,
    source: Source,
    adapted: Adapted,
    options: Options,
    engines: dict[str, EngineFiles],
    plans: MemoryPlans,
) -> Manifest:
    inputs, is_text = adapted.inputs, adapted.inputs.vocabulary is not None
    tokens = TokenFacts(file=TOKENIZER, pad_id=adapted.pad_id, max_tokens=options.max_tokens)
    names = {WEIGHTS, LAYOUT, ADAPTER, PARITY, *([TOKENIZER] if is_text else [])}
    names |= {OPEN_BASE} if (folder / OPEN_BASE).is_file() else set()
    names |= {
        name
        for one in engines.values()
        for name in (one.train, one.evaluate, one.checkpoint, one.per_example)
        if name is not None
    }
    manifest = Manifest(
        model=ModelFacts(source=source.name, family=adapted.family, n_parameters=adapted.n_parameters),
        task=TaskFacts(kind=adapted.task.kind, n_labels=options.n_labels, label_names=options.label_names or None),
        adapter=_adapter_facts(adapted),
        engines=engines,
        memory=plans.train,
        memory_per_example=plans.per_example,
        tier=options.tier,
        checkpointed=options.checkpoint or None,
        dropout=inputs.dropout,
        precision=None if options.precision == "fp32" else options.precision,
        tokens=tokens if is_text else None,
        images=inputs.images,
        series=inputs.series,
        files={name: _facts(folder / name) for name in sorted(names)},
        tools={name: version(name) for name in TOOLS},
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return manifest


def _adapter_facts(adapted: Adapted) -> AdapterFacts:
    recipe = adapted.recipe
    has_lora = "lora" in recipe.parts
    return AdapterFacts(
        kind="+".join(recipe.parts),
        rank=recipe.rank if has_lora else None,
        alpha=recipe.alpha if has_lora else None,
        targets=recipe.targets if has_lora else (),
        n_virtual=recipe.n_virtual if {"soft-prompt", "prefix"} & set(recipe.parts) else None,
        n_params=adapted.layout.n_params,
    )


def _facts(path: Path) -> FileFacts:
    digest, n_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            n_bytes += len(chunk)
    return FileFacts(bytes=n_bytes, sha256=digest.hexdigest())


def _refuse_strangers(out: Path) -> None:
    """Replace nothing that is not a bundle.

    Raises:
        ConfigError: ``out`` is a file, or a folder with other things in it, or its parent is missing.
    """
    if not out.absolute().parent.is_dir():
        message = f"--out {out}: its parent folder does not exist"
        raise ConfigError(message)
    if not out.exists():
        return
    if not out.is_dir():
        message = f"--out {out} is a file"
        raise ConfigError(message)
    names = {path.name for path in out.iterdir()}
    try:
        named = set(json.loads((out / MANIFEST).read_bytes())["files"]) | {MANIFEST} if names else set()
    except (OSError, ValueError, KeyError, TypeError):
        named = set()
    if not names <= named:
        message = f"--out {out} holds something that is no bundle; name a new folder"
        raise ConfigError(message)


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Yield an empty folder on the same file system as ``out``; it is removed unless it was moved away."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=out.absolute().parent))
    except OSError as error:
        message = f"{out}: cannot be written: {error.strerror}"
        raise StorageError(message) from error
    try:
        yield folder
    except OSError as error:
        message = f"{out}: cannot be written: {error.strerror or error}"
        raise StorageError(message) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(folder: Path, out: Path) -> None:
    """Let ``folder`` become ``out``; an older bundle there is moved aside first and removed last."""
    folder.chmod(0o755)  # mkdtemp's own mode lets nobody else read, and a bundle is no secret
    with tempfile.TemporaryDirectory(prefix=TEMP_PREFIX, dir=out.absolute().parent) as aside:
        if out.exists():
            out.replace(Path(aside) / "old")
        folder.replace(out)
