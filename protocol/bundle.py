"""The manifest of a bundle, and the rules by which its files are believed. No IO: ``host.bundle_folder`` reads.

Laws: a bundle is known by the SHA-256 of its manifest's bytes; the manifest names every file with its length and
SHA-256; a file name is one plain component, so no manifest can point outside its folder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Final

from protocol.dropout import DropoutFacts  # noqa: TC001 - fields are read by their types
from protocol.errors import BundleError
from protocol.fields import FieldError, Hex, Length, Pattern, Range, plain, structure
from protocol.layout import MAX_PARAMS

__all__ = [
    "ADAPTER",
    "CONTRASTIVE",
    "IGNORED",
    "LAYOUT",
    "MANIFEST",
    "MAX_FILE_BYTES",
    "MAX_MANIFEST_BYTES",
    "PARITY",
    "WEIGHTS",
    "AdapterFacts",
    "Bucket",
    "EngineFiles",
    "FileFacts",
    "ImageFacts",
    "Manifest",
    "MemoryPeak",
    "ModelFacts",
    "SeriesFacts",
    "TaskFacts",
    "TierFacts",
    "TokenFacts",
    "bundle_id",
    "file_url_path",
]

MANIFEST: Final = "manifest.json"
LAYOUT: Final = "layout.json"
ADAPTER: Final = "adapter.f32"
PARITY: Final = "parity.json"
WEIGHTS: Final = "weights.bin"  # the only file in which tensors of the ONNX graphs may lie
MAX_MANIFEST_BYTES: Final = 256 * 1024  # a real one has 3 kB
IGNORED: Final = -100  # the label of what has none, as torch's cross entropy has it
# Tasks whose loss compares a batch's examples with each other: a batch of one teaches nothing.
CONTRASTIVE: Final = frozenset({"sentence-embedding", "image-text"})
MAX_FILE_BYTES: Final = 64 * 2**30

FileName = Annotated[str, Length(1, 128), Pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*", "a plain file name without folders")]
_Short = Annotated[str, Length(1, 256)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Where the base came from."""

    source: _Short
    family: _Short
    n_parameters: Annotated[int, Range(1, 10**13)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What the model is trained to do."""

    kind: Annotated[str, Length(1, 64)]
    n_labels: Annotated[int, Range(2, 100_000)] | None = None  # None: the task has no labels, such as causal-lm
    label_names: Annotated[tuple[_Short, ...], Length(2, 100_000)] | None = None  # in the order of the labels


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """What is trainable."""

    kind: Annotated[str, Length(1, 64)]
    n_params: Annotated[int, Range(1, MAX_PARAMS)]
    rank: Annotated[int, Range(1, 4096)] | None = None
    alpha: Annotated[float, Range(1e-6, 1e6)] | None = None
    targets: tuple[_Short, ...] = ()
    n_virtual: Annotated[int, Range(1, 4096)] | None = None  # a soft prompt's tokens, beside the text's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One shape of batch that an engine of fixed shapes was made for."""

    batch: Annotated[int, Range(1, 4096)]
    seq: Annotated[int, Range(1, 10**6)] | None = None  # None: the task has no sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFiles:
    """The graphs of one engine."""

    train: FileName
    evaluate: FileName
    opset: Annotated[int, Range(1, 100)] | None = None  # of ONNX graphs
    checkpoint: FileName | None = None  # onnxruntime-training keeps its parameters in a file
    buckets: tuple[Bucket, ...] | None = None  # LiteRT's signatures; None: any shape
    per_example: FileName | None = None  # a graph as ``protocol.per_example`` says; None: examples are taken one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """How text becomes token ids."""

    file: FileName
    pad_id: Annotated[int, Range(0, 10**7)]
    max_tokens: Annotated[int, Range(1, 10**6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """How a picture becomes numbers: (level / 255 - mean) / std, channel by channel."""

    height: Annotated[int, Range(1, 4096)]
    width: Annotated[int, Range(1, 4096)]
    channels: Annotated[int, Range(1, 16)]
    mean: tuple[Annotated[float, Range(-10, 10)], ...]
    std: tuple[Annotated[float, Range(1e-6, 10)], ...]

    def __post_init__(self) -> None:
        """Refuse constants for another number of channels."""
        if not len(self.mean) == len(self.std) == self.channels:
            raise FieldError(f"mean and std must have {self.channels} values, one a channel")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """What a forecaster sees, and how far it looks ahead; both in time steps."""

    context: Annotated[int, Range(1, 100_000)]
    horizon: Annotated[int, Range(1, 100_000)]
    channels: Annotated[int, Range(1, 10_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """Length and content of one file."""

    bytes: Annotated[int, Range(0, MAX_FILE_BYTES)]
    sha256: Hex


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPeak:
    """What a trainer is predicted to need at its peak for batches of one shape."""

    batch: Annotated[int, Range(1, 4096)]
    seq: Annotated[int, Range(1, 10**6)] | None = None  # None: the examples have one size
    peak_bytes: Annotated[int, Range(1, 2**50)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFacts:
    """The class of devices that a bundle was made for, and the batch that fits there."""

    name: Annotated[str, Length(1, 64)]
    budget_bytes: Annotated[int, Range(1, 2**50)]
    batch: Annotated[int, Range(1, 4096)]
    seq: Annotated[int, Range(1, 10**6)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What ``manifest.json`` says."""

    format: Annotated[int, Range(1, 1)] = 1
    model: ModelFacts
    task: TaskFacts
    adapter: AdapterFacts
    engines: Annotated[dict[_Short, EngineFiles], Length(1, 64)]
    tokens: TokenFacts | None = None  # of a task on text
    images: ImageFacts | None = None  # of a task on pictures
    series: SeriesFacts | None = None  # of a task on time series
    memory: Annotated[tuple[MemoryPeak, ...], Length(1, 1024)] | None = None  # the portable engine's trainer
    # The same while it clips single examples by the engine's graph for it; None: there is no such graph.
    memory_per_example: Annotated[tuple[MemoryPeak, ...], Length(1, 1024)] | None = None
    tier: TierFacts | None = None
    checkpointed: bool | None = None  # whether the backward computes layers again; None: no
    dropout: DropoutFacts | None = None  # masks that the training graph takes; None: nothing is dropped
    precision: Annotated[str, Length(1, 16)] | None = None  # how the frozen weights are stored; None: float32
    files: Annotated[dict[FileName, FileFacts], Length(1, 1024)]
    tools: Annotated[dict[_Short, Annotated[str, Length(0, 64)]], Length(0, 64)]

    def __post_init__(self) -> None:
        """Refuse a manifest that names files it does not vouch for."""
        if self.tokens is None and self.images is None and self.series is None:
            raise FieldError("tokens, images, series: at least one of them says what the examples are")
        needed = {LAYOUT, ADAPTER, PARITY}
        if self.tokens is not None:
            needed.add(self.tokens.file)
        for engine in self.engines.values():
            needed |= {engine.train, engine.evaluate}
            needed |= {name for name in (engine.checkpoint, engine.per_example) if name is not None}
        missing = sorted(needed - self.files.keys())
        if missing:
            raise FieldError(f"files: no entry for {', '.join(missing)}")
        if MANIFEST in self.files:
            raise FieldError(f"files: {MANIFEST} cannot vouch for itself")
        if self.files[ADAPTER].bytes != 4 * self.adapter.n_params:
            raise FieldError(f"files: {ADAPTER} must have 4 bytes for each of {self.adapter.n_params} parameters")

    def to_bytes(self) -> bytes:
        """Return the bytes of ``manifest.json``."""
        return json.dumps(plain(self), indent=2, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read ``manifest.json``.

        Raises:
            BundleError: not a manifest of this format (whoever made the bundle).
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise BundleError(f"{MANIFEST} has {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are taken")
        try:
            return structure(cls, json.loads(data), lenient_floats=True)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MANIFEST} is not a manifest of format 1: {error}") from error


def bundle_id(manifest_bytes: bytes) -> str:
    """Return the id under which devices and service speak of a bundle."""
    return hashlib.sha256(manifest_bytes).hexdigest()


def file_url_path(bundle_id: str, name: str) -> str:
    """Return where a file of a bundle is below the address that bundles are fetched from."""
    return f"{bundle_id}/{name}"
