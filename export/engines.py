"""Pass: the artifacts of engines other than ``portable``, written into the bundle by child processes.

A converter runs where its wheels are (``host.engines``); what cannot be is refused before the long passes
begin, with the reason.

Laws: a converter sees the bundle's folder or files of its own, and its failure is an ``EngineError`` with the line
that names its own; whether the result is right is for the parity pass to say.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import export, save

from export.adapt import Adapted
from export.old_tflite import say_with_older_operations
from export.trace import Step
from host.engines import environment_of, interpreter_of, spec_of
from protocol.bundle import Bucket, EngineFiles
from protocol.errors import ConfigError, EngineError

__all__ = [
    "Steps",
    "default_bucket",
    "failure_in",
    "read_buckets",
    "refuse_impossible",
    "refuse_tables",
    "write_engine",
]

ORT_TRAIN, ORT_CHECKPOINT, LITERT_FILE = "train-ort.onnx", "train-ort.ckpt", "model.tflite"
OPSET = 20
DEFAULT_BATCH = 8  # fills a core; shorter batches and rests are padded to it
LITERT_TASKS = ("text-classification", "causal-lm", "image-classification")
DEADLINE_S = 3600.0  # MiniLM takes two minutes to convert
# Which environments each engine needs at export: to write its files, and to check them.
NEEDS = {"portable": (), "ort-training": ("ort-training",), "litert": ("litert-export", "litert")}


@dataclass(frozen=True, slots=True)
class Steps:
    """What was traced, and the portable files that were made of it."""

    train: Step
    evaluate: Step
    evaluate_file: str
    buckets: tuple[Bucket, ...]


def default_bucket(max_tokens: int | None) -> Bucket:
    """Return the one shape that takes every batch, in chunks."""
    return Bucket(batch=DEFAULT_BATCH, seq=max_tokens)


def read_buckets(text: str, max_tokens: int) -> tuple[Bucket, ...]:
    """Return the shapes that a person wrote, such as ``8x32,8x64``.

    Raises:
        ConfigError: not a list of shapes, or none of them takes the longest text.
    """
    matches = [re.fullmatch(r"\s*(\d{1,4})x(\d{1,6})\s*", one) for one in text.split(",")]
    buckets = tuple(Bucket(batch=int(m[1]), seq=int(m[2])) for m in matches if m is not None)
    if len(buckets) != len(matches) or not all(b.batch and b.seq for b in buckets):
        message = f"--litert-shapes {text!r}: expected shapes such as 8x32,8x64"
        raise ConfigError(message)
    if not any(bucket.seq == max_tokens for bucket in buckets) or any((b.seq or 0) > max_tokens for b in buckets):
        message = f"--litert-shapes {text!r}: the longest must have --max-tokens, {max_tokens}"
        raise ConfigError(message)
    return tuple(dict.fromkeys(buckets))


def refuse_impossible(engines: tuple[str, ...], *, task: str, precision: str, has_dropout: bool = False) -> None:
    """Refuse engines that this machine cannot write or check, before anything long begins.

    Raises:
        ConfigError: no such engine, ``portable`` is missing, or the engine cannot do the task or the precision.
        EngineError: an environment is not installed, and what to type.
    """
    if "portable" not in engines:
        message = "--engines: portable must be among them: the others are made from its graphs and checked beside it"
        raise ConfigError(message)
    for name in engines:
        if name not in NEEDS:
            message = f"--engines: no engine is called {name!r}; there are {', '.join(NEEDS)}"
            raise ConfigError(message)
        if name != "portable" and precision != "fp32":
            message = f"--engines: {name} trains float32 weights only; leave out {name}, or --quantize {precision}"
            raise ConfigError(message)
        if name != "portable" and has_dropout:
            message = f"--engines: {name} is given no dropout masks; leave out {name}, or --dropout"
            raise ConfigError(message)
        if name == "litert" and task not in LITERT_TASKS:
            message = (
                f"--engines: litert cannot train {task}: its batches have a fixed size and are filled up with examples "
                f"that must not count, which its loss cannot express; it trains {', '.join(LITERT_TASKS)}"
            )
            raise ConfigError(message)
        for needed in NEEDS[name]:
            found = environment_of(spec_of(needed).name)
            if found.state != "installed":
                message = f"--engines {name}: {found.why}"
                raise EngineError(message)


def refuse_tables(engines: tuple[str, ...], adapted: Adapted) -> None:
    """Refuse engines that cannot train one of the model's own embedding tables as PyTorch does.

    LiteRT has no scatter that adds, which is a table's gradient. PyTorch never changes a table's padding row;
    onnxruntime-training derives its backward from the forward, where nothing tells that row from the others.

    Raises:
        ConfigError: ``full`` on a model that reads tokens, and such an engine.
    """
    trained = {one.parameter for one in adapted.trainables if one.role == "base"}
    tables = {name: one for name, one in adapted.model.named_modules() if isinstance(one, nn.Embedding)}
    for name, table in tables.items():
        if f"{name}.weight" not in trained:
            continue
        if "litert" in engines:
            message = (
                f"--engines: litert cannot train the embedding table {name}: it has no operation for its gradient; "
                "leave out litert, or choose another --adapter than full"
            )
            raise ConfigError(message)
        if "ort-training" in engines and table.padding_idx is not None:
            message = (
                f"--engines: ort-training cannot train the embedding table {name}: it would change the padding token's "
                "row, which PyTorch never does; leave out ort-training, or choose another --adapter than full"
            )
            raise ConfigError(message)


def write_engine(name: str, folder: Path, steps: Steps, adapted: Adapted) -> EngineFiles:
    """Write the artifacts of the engine ``name`` into ``folder``; the portable graphs are there already.

    Raises:
        EngineError: its converter failed: an operator that it does not know, for instance.
    """
    match name:
        case "ort-training":
            _run_child("ort-training", "export.ort_artifacts", [str(folder)], "onnxruntime-training cannot derive it")
            return EngineFiles(train=ORT_TRAIN, evaluate=steps.evaluate_file, opset=OPSET, checkpoint=ORT_CHECKPOINT)
        case "litert":
            _write_litert(folder / LITERT_FILE, steps, adapted)
            return EngineFiles(train=LITERT_FILE, evaluate=LITERT_FILE, buckets=steps.buckets)
        case _:
            message = f"no converter for the engine {name!r}"
            raise ConfigError(message)


class _Fixed(nn.Module):
    """A step as a module of named tensors, as LiteRT's signatures name them."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._graph, self._inputs, self._outputs = step.graph, step.inputs, step.outputs
        self._names = [f"w__{name.replace('.', '__')}" for name in step.frozen]
        for name, value in zip(self._names, step.frozen.values(), strict=True):
            self.register_buffer(name, value)

    def forward(self, theta: Tensor, **batch: Tensor) -> dict[str, Tensor]:
        frozen = [getattr(self, name) for name in self._names]
        found = self._graph(frozen, theta, *(batch[name] for name in self._inputs))
        return dict(zip(self._outputs, found, strict=True))


def _write_litert(out: Path, steps: Steps, adapted: Adapted) -> None:
    with tempfile.TemporaryDirectory(prefix="edgefold-litert-") as name:
        arguments = [str(out)]
        for bucket in steps.buckets:
            shape = f"{bucket.batch}" + ("" if bucket.seq is None else f"x{bucket.seq}")
            for kind, step in (("train", steps.train), ("evaluate", steps.evaluate)):
                path = Path(name) / f"{kind}-{shape}.pt2"
                _save_fixed(path, step, adapted, bucket)
                arguments.append(f"{kind}_{shape}={path}")
        _run_child("litert-export", "export.litert_convert", arguments, "litert-torch cannot convert it")


def _save_fixed(path: Path, step: Step, adapted: Adapted, bucket: Bucket) -> None:
    config: Any = adapted.model.config
    example = adapted.task.example(config, bucket.batch, bucket.seq or 1)[: len(step.inputs)]
    arguments = {"theta": step.theta, **dict(zip(step.inputs, example, strict=True))}
    with torch.no_grad():
        program = export(_Fixed(step), (), arguments, strict=False)
    save(say_with_older_operations(program), path)


def _run_child(environment: str, module: str, arguments: list[str], what: str) -> None:
    command = [interpreter_of(environment), "-m", module, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{what}: {error}"
        raise EngineError(message) from error
    if done.returncode != 0:
        message = f"{what}: {failure_in(done.stderr) or f'exit status {done.returncode}'}"
        raise EngineError(message)


def failure_in(stderr: str) -> str:
    """Return the line that says why a program ended: its last error by name, else its last line; none of nothing."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]  # some add advice after it
    return (named or lines or [""])[-1][:400]
