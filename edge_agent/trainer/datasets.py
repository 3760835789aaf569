"""Opens a device's data file as the bundle's task asks for it.

Laws: the bundle's task kind decides, nothing is guessed from the file; a kind that this trainer does not know is the
bundle's fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_agent.trainer.batches import tokenise
from edge_agent.trainer.examples import read_examples
from edge_agent.trainer.images import read_images
from edge_agent.trainer.series import read_series
from edge_agent.trainer.texts import read_captioned, read_pairs, read_tagged
from protocol.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.trainer.batches import Dataset
    from host.bundle_folder import Bundle
    from protocol.bundle import Manifest

__all__ = ["open_dataset"]

# What each task's examples are made of, as fields of the manifest.
_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "text-classification": ("labels", "tokens"),
    "token-classification": ("labels", "tokens"),
    "sentence-embedding": ("tokens",),
    "causal-lm": ("tokens",),
    "image-classification": ("labels", "images"),
    "image-text": ("tokens", "images"),
    "forecasting": ("series",),
}


def open_dataset(bundle: Bundle, data: Path, *, max_tokens: int, max_examples: int) -> Dataset:
    """Return the examples in ``data``, ready for the bundle's graphs.

    Raises:
        BundleError: the bundle's task is unknown here, or lacks what its data needs.
        ConfigError: the file is not what the task needs.
    """
    manifest = bundle.manifest
    kind = manifest.task.kind
    _refuse_incomplete(bundle, manifest)
    n_labels = manifest.task.n_labels if "labels" in _NEEDS[kind] else None
    if manifest.series is not None:
        return read_series(data, manifest.series, max_examples=max_examples)
    tokens, images = manifest.tokens, manifest.images
    if tokens is None:
        if images is None or n_labels is None:
            raise BundleError(f"{bundle.folder}: the task {kind!r} has neither text nor pictures")
        return read_images(data, images, n_labels=n_labels, max_examples=max_examples)
    file, longest = bundle.path(tokens.file), min(max_tokens, tokens.max_tokens)
    if images is not None:
        return read_captioned(
            data, images, tokenizer_file=file, pad_id=tokens.pad_id, max_tokens=longest, max_examples=max_examples
        )
    if kind == "sentence-embedding":
        return read_pairs(
            data, tokenizer_file=file, pad_id=tokens.pad_id, max_tokens=longest, max_examples=max_examples
        )
    if kind == "token-classification" and n_labels is not None:
        return read_tagged(
            data,
            n_labels=n_labels,
            tokenizer_file=file,
            pad_id=tokens.pad_id,
            max_tokens=longest,
            max_examples=max_examples,
        )
    examples = read_examples(data, n_labels=n_labels, max_examples=max_examples)
    return tokenise(examples, tokenizer_file=file, pad_id=tokens.pad_id, max_tokens=longest)


def _refuse_incomplete(bundle: Bundle, manifest: Manifest) -> None:
    there = {
        "labels": manifest.task.n_labels is not None,
        "tokens": manifest.tokens is not None,
        "images": manifest.images is not None,
        "series": manifest.series is not None,
    }
    kind = manifest.task.kind
    if kind not in _NEEDS:
        raise BundleError(f"{bundle.folder}: this trainer does not know the task {kind!r}")
    parts = {name for name, is_there in there.items() if is_there and name != "labels"}
    missing = [name for name in _NEEDS[kind] if not there[name]]
    if missing or parts != set(_NEEDS[kind]) - {"labels"}:
        raise BundleError(f"{bundle.folder}: the task {kind!r} needs exactly {', '.join(_NEEDS[kind])} in its manifest")
