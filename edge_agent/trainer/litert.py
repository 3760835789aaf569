"""The engine ``litert``: LiteRT signatures of fixed shape, run by ai-edge-litert or by tflite-runtime.

A batch is cut into chunks of the smallest shape that takes its sequence; what is missing in a chunk is padding that the
loss does not count (labels ``IGNORED``, or a mask of zeros), and the mean over the batch is the chunks' means, each
weighted by what it counted. So any batch trains, and gives the gradient that it gives elsewhere, up to rounding.

Laws: no exception of the runtime leaves this file; the file is mapped, not read. It knows nothing of tasks beyond the
names of their tensors.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from protocol.errors import BundleError, ConfigError, EngineError

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch
    from protocol.bundle import Bucket, Manifest

__all__ = ["ENGINE", "IGNORED", "LitertEngine", "open_engine"]

ENGINE: Final = "litert"
IGNORED: Final = -100  # the label that cross entropy does not count, in PyTorch and so in the traced loss
_MASK: Final = "attention_mask"


def open_engine(folder: Path, manifest: Manifest, *, threads: int) -> LitertEngine:
    """Return the engine of a bundle whose files were checked and whose manifest names this engine.

    Raises:
        BundleError: the manifest has no buckets for it.
    """
    files = manifest.engines[ENGINE]
    if not files.buckets:
        raise BundleError(f"{folder}: the engine {ENGINE!r} needs buckets")
    pad_id = manifest.tokens.pad_id if manifest.tokens is not None else 0
    return LitertEngine(
        train=folder / files.train,
        evaluate=folder / files.evaluate,
        buckets=files.buckets,
        pad_id=pad_id,
        threads=threads,
    )


class LitertEngine:
    """Implements ``edge_agent.trainer.engines.Engine``."""

    def __init__(self, *, train: Path, evaluate: Path, buckets: tuple[Bucket, ...], pad_id: int, threads: int) -> None:
        """Keep the paths; nothing is loaded yet."""
        self._paths = {"train": train, "evaluate": evaluate}
        self._buckets = sorted(buckets, key=lambda bucket: (bucket.seq or 0, bucket.batch))
        self._pad_id, self._threads = pad_id, threads
        self._interpreters: dict[Path, Any] = {}
        self._runners: dict[str, Any] = {}

    def loss_and_gradient(self, theta: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float32]]:
        """Return the mean loss and its gradient, as the port says."""
        total, loss = 0.0, 0.0
        gradient = np.zeros(theta.shape, np.float64)
        for chunk in self._chunks(batch):
            counted = _counted(chunk.tensors)
            if not counted:
                continue  # nothing in it has a loss
            found = self._run("train", chunk, theta)
            total += counted
            loss += counted * float(found["loss"])
            gradient += counted * found["grad"].astype(np.float64)
        scale = max(total, 1.0)
        return loss / scale, (gradient / scale).astype(np.float32)

    def scores(self, theta: NDArray[np.float32], batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Return what the evaluation graph gives, as the port says."""
        parts: dict[str, list[NDArray[np.float32]]] = {}
        sequence = batch[_MASK].shape[1] if _MASK in batch else None
        for chunk in self._chunks(batch):
            for name, array in self._run("evaluate", chunk, theta).items():
                cut = array[: chunk.n_rows]  # [batch, ...]
                if sequence is not None and chunk.bucket.seq is not None and cut.ndim > 1:
                    lost = chunk.bucket.seq - sequence  # a score a token has the sequence, or one less, on its axis 1
                    has_tokens = chunk.bucket.seq - cut.shape[1] in {0, 1} and name != "logits"
                    cut = cut[:, : cut.shape[1] - lost] if has_tokens else cut
                parts.setdefault(name, []).append(cut)
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _chunks(self, batch: Batch) -> Iterator[_Chunk]:
        n_rows = len(next(iter(batch.values())))
        n_tokens = batch[_MASK].shape[1] if _MASK in batch else None
        fitting = [b for b in self._buckets if n_tokens is None or (b.seq is not None and b.seq >= n_tokens)]
        if not fitting:
            longest = max(bucket.seq or 0 for bucket in self._buckets)
            raise ConfigError(f"a batch has {n_tokens} tokens, and the bundle's LiteRT graphs take at most {longest}")
        shortest = [bucket for bucket in fitting if bucket.seq == fitting[0].seq]
        start = 0
        while start < n_rows:
            left = n_rows - start
            bucket = next((b for b in shortest if b.batch >= left), shortest[-1])
            rows = slice(start, start + bucket.batch)
            tensors = {name: self._padded(name, array[rows], bucket, n_tokens) for name, array in batch.items()}
            yield _Chunk(bucket, min(left, bucket.batch), tensors)
            start += bucket.batch

    def _padded(self, name: str, rows: NDArray[Any], bucket: Bucket, n_tokens: int | None) -> NDArray[Any]:
        fill = {"labels": IGNORED, "input_ids": self._pad_id}.get(name, 0)
        widths = [(0, bucket.batch - len(rows))] + [(0, 0)] * (rows.ndim - 1)
        if n_tokens is not None and bucket.seq is not None and rows.ndim > 1 and rows.shape[1] == n_tokens:
            widths[1] = (0, bucket.seq - n_tokens)
        return np.pad(rows, widths, constant_values=fill)

    def _run(self, kind: str, chunk: _Chunk, theta: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        name = _signature(kind, chunk.bucket)
        runner = self._runner(kind, name)
        feeds = {}
        for wanted, facts in runner.get_input_details().items():
            array = theta if wanted == "theta" else chunk.tensors.get(wanted)
            if array is None or tuple(facts["shape"]) != array.shape:
                found = "nothing" if array is None else list(array.shape)
                raise ConfigError(f"{wanted}: expected {list(facts['shape'])}, got {found}")
            feeds[wanted] = array.astype(facts["dtype"])
        with _translated(name, EngineError):
            found_ = runner(**feeds)
            return {key: np.array(value, np.float32) for key, value in found_.items()}

    def _runner(self, kind: str, name: str) -> Any:  # noqa: ANN401 - a class of a wheel without types
        path = self._paths[kind]
        if name not in self._runners:
            with _translated(path.name, BundleError):
                if path not in self._interpreters:
                    self._interpreters[path] = Interpreter(str(path), num_threads=self._threads)
                self._runners[name] = self._interpreters[path].get_signature_runner(name)
        return self._runners[name]


class _Chunk(NamedTuple):
    """Rows of a batch, padded to the bucket's shape."""

    bucket: Bucket
    n_rows: int
    tensors: dict[str, NDArray[Any]]


def _signature(kind: str, bucket: Bucket) -> str:
    return f"{kind}_{bucket.batch}" + ("" if bucket.seq is None else f"x{bucket.seq}")


def _counted(tensors: dict[str, NDArray[Any]]) -> int:
    """Return over how many scored items the loss of a chunk is a mean: its labels, or its tokens with a predecessor."""
    if "labels" in tensors:
        return int((tensors["labels"] != IGNORED).sum())
    return int(tensors[_MASK][:, 1:].sum())


@contextlib.contextmanager
def _translated(what: str, blame: type[BundleError | EngineError]) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise EngineError(f"{what}: out of memory") from error
    except (RuntimeError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines()
        raise blame(f"{what}: LiteRT: {lines[0][:300] if lines else type(error).__name__}") from error
