"""Makes a trained adapter and its base one model: a Hugging Face folder and an ONNX inference model.

Laws: nothing is written unless the base with the adapter gives the scores of the bundle's own evaluation graph (so a
base of other weights is noticed, whatever it is called), and the merged model, the folder read back and the ONNX model
give its logits, on sample batches; the target appears by one rename. With a soft prompt there is no Hugging Face
folder, since a prompt is input and not weight; the ONNX model has the prompt inside.
"""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from export.adapt import Adapted, Options, adapt, task_model
from export.load import Source, load
from export.open_base import add_change, base_tensors
from export.problems import Batch, make_problem
from export.quantise import PRECISIONS, Precision
from export.runtime import Graph
from export.trace import forward_program
from host.arrays import load_vector
from host.base_change import changed_base
from host.bundle_folder import Bundle, open_bundle
from host.durable import TEMP_PREFIX, read_bytes
from models.adapters import named_trainables
from models.family import Family
from models.merge import fold_into
from models.tasks import TASKS, task_name
from protocol.bundle import PARITY
from protocol.errors import BundleError, ConfigError, EngineError, StorageError
from protocol.lora_pairs import n_dense_values

__all__ = ["Merged", "merge"]

PROMPTS = frozenset({"soft-prompt", "prefix"})
FOLDER, GRAPH, FACTS = "huggingface", "model.onnx", "merged.json"
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json")
# Of the largest logit. Measured 1e-6, rounding alone; a forgotten scale or a transposed product shows above 1e-2.
TOLERANCE = 1e-4
N_BATCHES = 8  # each shape of ``export.problems`` once
MAX_PARITY_BYTES = 1 << 20
OPSET = 20
Scores = list[NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What was written; errors are relative to the largest logit, None where there is no such model."""

    bundle_id: str
    adapter_sha256: str
    base_error: float  # the base with the adapter, to the bundle's own graph
    onnx_error: float
    merged_error: float | None
    folder_error: float | None
    no_folder_why: str | None


def merge(
    bundle_folder: Path, adapter: Path, out: Path, *, model: str | None = None, base_change: Path | None = None
) -> Merged:
    """Write the bundle's base with ``adapter``, raw float32 [n_params], merged into it, to the new folder ``out``.

    ``base_change``, raw float32 [n_dense], is first added to the base weights, where the strategy changes them.

    Raises:
        ConfigError: the base is not here, or ``out`` is taken.
        BundleError: the bundle is not what its manifest says, or the base is not the bundle's.
        EngineError: what was made does not give the same logits; nothing is written.
        StorageError: ``adapter`` cannot be read, or the disk is full.
    """
    if out.exists() or not out.absolute().parent.is_dir():
        message = f"--out {out}: " + ("it is there already" if out.exists() else "its parent folder does not exist")
        raise ConfigError(message)
    bundle = open_bundle(bundle_folder)
    theta = load_vector(adapter, n_values=bundle.layout.n_params)
    options = _options(bundle)
    source = _source(bundle, options, model)
    adapted, change = _adapted(source, options, bundle, theta), _change(bundle, base_change)
    if change is not None:
        add_change(base_tensors(adapted), change)
    batches = make_problem(theta, adapted.layout, adapted.inputs, seed=options.seed, n_steps=N_BATCHES).batches
    base_error = _check_base(bundle, adapted, theta, batches, change)
    expected = _logits(adapted.task.infer(adapted.model), adapted, batches)
    sample = _Sample(source=source, options=options, adapted=adapted, batches=batches, expected=expected)
    try:
        with tempfile.TemporaryDirectory(prefix=TEMP_PREFIX, dir=out.absolute().parent) as name:
            folder = Path(name) / "model"
            folder.mkdir()
            onnx_error, merged_error, folder_error = _write(folder, sample)
            merged = Merged(
                bundle_id=bundle.id,
                adapter_sha256=hashlib.sha256(theta.astype("<f4").tobytes()).hexdigest(),
                base_error=base_error,
                onnx_error=onnx_error,
                merged_error=merged_error,
                folder_error=folder_error,
                no_folder_why="learned prompts are input and not weight" if _has_prompt(adapted) else None,
            )
            (folder / FACTS).write_text(json.dumps(asdict(merged), indent=2) + "\n")
            folder.replace(out)
    except OSError as error:
        message = f"{out}: cannot be written: {error.strerror or error}"
        raise StorageError(message) from error
    return merged


def _options(bundle: Bundle) -> Options:
    """Return the options with which the bundle was exported."""
    facts, task, tokens = bundle.manifest.adapter, bundle.manifest.task, bundle.manifest.tokens
    try:
        seed = int(json.loads(read_bytes(bundle.path(PARITY), max_bytes=MAX_PARITY_BYTES))["seed"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{bundle.folder}: {PARITY} is no parity report of format 1: {error}"
        raise BundleError(message) from error
    name, label_names = task_name(task.kind, family=bundle.manifest.model.family), task.label_names or ()
    defaults = Options(task=name, n_labels=task.n_labels, label_names=label_names)
    rank, alpha = facts.rank or defaults.rank, facts.alpha or defaults.alpha
    series = bundle.manifest.series if TASKS[name].has_free_window else None
    scales = {slot.scale for slot in bundle.layout.tensors if slot.role in {"lora_A", "lora_B"}}
    return Options(
        task=name,
        n_labels=task.n_labels,
        label_names=label_names,
        adapter=facts.kind,
        rank=rank,
        alpha=alpha,
        rslora=any(math.isclose(one, alpha / math.sqrt(rank)) for one in scales) and rank > 1,
        targets=facts.targets,
        n_virtual=facts.n_virtual or defaults.n_virtual,
        max_tokens=tokens.max_tokens if tokens is not None else defaults.max_tokens,
        seed=seed,
        precision=_precision(bundle),
        context=None if series is None else series.context,
        channels=None if series is None else series.channels,
    )


def _precision(bundle: Bundle) -> Precision:
    # The adapter was trained on the rounded weights, so those are what it is merged into.
    named = bundle.manifest.precision or "fp32"
    for precision in PRECISIONS:
        if named == precision:
            return precision
    message = f"{bundle.folder}: its weights are {named}, which this version does not know"
    raise BundleError(message)


def _source(bundle: Bundle, options: Options, model: str | None) -> Source:
    name = model or bundle.manifest.model.source
    try:
        return load(name, is_text=options.is_text)
    except ConfigError as error:
        if model is not None:
            raise
        message = f"the bundle was made of {name}, which is not here: name the model's folder with --model"
        raise ConfigError(message) from error


def _adapted(source: Source, options: Options, bundle: Bundle, theta: NDArray[np.float32]) -> Adapted:
    adapted = adapt(source, options)
    if adapted.layout != bundle.layout:
        message = f"{source.name}: the bundle's adapter does not fit this model; name the right one with --model"
        raise BundleError(message)
    parameters = dict(adapted.model.named_parameters())
    with torch.no_grad():
        for name, value in named_trainables(torch.from_numpy(theta.copy()), adapted.trainables).items():
            parameters[name].copy_(value)
    return adapted


def _change(bundle: Bundle, path: Path | None) -> NDArray[np.float32] | None:
    return None if path is None else load_vector(path, n_values=n_dense_values(bundle.layout))


def _check_base(
    bundle: Bundle,
    adapted: Adapted,
    theta: NDArray[np.float32],
    batches: tuple[Batch, ...],
    change: NDArray[np.float32] | None,
) -> float:
    weights = None if change is None else changed_base(bundle, change).evaluate
    graph = Graph(bundle.path(bundle.manifest.engines["portable"].evaluate), weights)
    task, module = adapted.task, adapted.task.wrap(adapted.model)
    expected = [graph.run({"theta": theta, **batch}) for batch in batches]
    with torch.no_grad():
        inputs = [tuple(torch.from_numpy(batch[name]) for name in task.inputs) for batch in batches]
        actual = [task.score(module(*one), *one)[0].numpy() for one in inputs]
    error = _apart(expected, actual)
    if not error <= TOLERANCE:
        message = f"this model is not the bundle's base: its scores are off by {error:.1e}; name the right one: --model"
        raise BundleError(message)
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """What every form of the model is held against."""

    source: Source
    options: Options
    adapted: Adapted
    batches: tuple[Batch, ...]
    expected: Scores

    def error_of(self, what: str, model: PreTrainedModel) -> float:
        return _hold(what, self.expected, _logits(self.adapted.task.infer(model), self.adapted, self.batches))

    def build(self, folder: Path, *, seed: int) -> tuple[PreTrainedModel, Family]:
        return task_model(folder, self.options, seed=seed)


def _write(folder: Path, sample: _Sample) -> tuple[float, float | None, float | None]:
    """Write both forms; return the errors of the ONNX model, the merged model and the folder read back."""
    model, merged_error, folder_error = sample.adapted.model, None, None
    if not _has_prompt(sample.adapted):
        model, family = sample.build(sample.source.folder, seed=sample.options.seed)
        fold_into(model, sample.adapted.model, family)
        merged_error = sample.error_of("the merged model", model)
        folder_error = _write_folder(folder / FOLDER, sample, model)
    _write_graph(folder / GRAPH, model, sample.adapted, sample.options)
    onnx_error = _hold("the ONNX model", sample.expected, _each(Graph(folder / GRAPH).run, sample.batches))
    return onnx_error, merged_error, folder_error


def _has_prompt(adapted: Adapted) -> bool:
    return not PROMPTS.isdisjoint(adapted.recipe.parts)


def _write_folder(folder: Path, sample: _Sample, model: PreTrainedModel) -> float:
    seed = sample.options.seed
    fresh, _ = sample.build(sample.source.folder, seed=seed)
    fresh.load_state_dict(model.state_dict())  # without what ``wrap`` put on the modules
    fresh.save_pretrained(folder)
    for name in TOKENIZERS:
        if (sample.source.folder / name).is_file():
            shutil.copyfile(sample.source.folder / name, folder / name)
    # Another seed: what the folder did not hold would be drawn anew, and differ.
    again, _ = sample.build(folder, seed=seed + 1)
    return sample.error_of("the folder read back", again)


def _write_graph(path: Path, model: PreTrainedModel, adapted: Adapted, options: Options) -> None:
    program, inputs = forward_program(model, adapted.task, max_tokens=options.max_tokens)
    with torch.no_grad():
        lowered = torch.onnx.export(
            program,
            inputs,
            dynamo=True,
            optimize=True,
            opset_version=OPSET,
            input_names=list(adapted.task.inputs),
            output_names=["logits"],
            verbose=False,
        )
    if lowered is None:
        message = "torch.onnx.export returned nothing"
        raise EngineError(message)
    ir.save(lowered.model, path, external_data=f"{path.name}.data")


def _logits(module: nn.Module, adapted: Adapted, batches: tuple[Batch, ...]) -> Scores:
    def run(batch: Batch) -> NDArray[np.float32]:
        result: NDArray[np.float32] = module(*(torch.from_numpy(batch[name]) for name in adapted.task.inputs)).numpy()
        return result

    with torch.no_grad():
        return _each(run, batches)


def _each(run: Callable[[Batch], NDArray[np.float32]], batches: tuple[Batch, ...]) -> Scores:
    return [run(batch) for batch in batches]


def _hold(what: str, expected: Scores, actual: Scores) -> float:
    error = _apart(expected, actual)
    if not error <= TOLERANCE:
        message = (
            f"{what} does not give the adapter's logits: off by {error:.1e} (at most {TOLERANCE:.0e}); not written"
        )
        raise EngineError(message)
    return error


def _apart(expected: Scores, actual: Scores) -> float:
    """Return the largest difference relative to the largest value; NaN if one is not finite."""
    largest = max(float(np.abs(one).max()) for one in expected)
    errors = [float(np.abs(a - b).max()) / largest for a, b in zip(expected, actual, strict=True)]
    return max(errors) if all(map(math.isfinite, errors)) else math.nan
