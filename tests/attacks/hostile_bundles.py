"""Ways to put another file under a bundle's name: links, pipes, extra files, changed bytes, deep or huge manifests.

``python -m tests.attacks.hostile_bundles`` spoils a good bundle in each way and prints what the reader says.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from host.bundle_folder import open_bundle
from protocol.bundle import MANIFEST, MAX_MANIFEST_BYTES, Bucket, EngineFiles, FileFacts, bundle_id
from protocol.errors import BundleError
from protocol.fields import FieldError, plain
from tests.protocol import samples
from tests.protocol.onnx_bytes import GRAPH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTENT = {
    "layout.json": samples.LAYOUT.to_bytes(),
    "adapter.f32": bytes(4 * samples.LAYOUT.n_params),
    "parity.json": b"{}",
    "tokenizer.json": b"{}",
    "train.onnx": GRAPH,
    "eval.onnx": GRAPH,
    "weights.bin": bytes(64),
}


def make_bundle(folder: Path) -> str:
    """Write a good bundle (its graphs compute nothing, but nobody loads them here) and return its id."""
    folder.mkdir()
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    return vouch(folder)


def vouch(folder: Path, *, more: tuple[str, ...] = (), **changes: object) -> str:
    """Write the manifest for what lies in ``folder``: the usual files and ``more``."""
    files = {
        name: FileFacts(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name in (*CONTENT, *more)
        for data in [(folder / name).read_bytes()]
    }
    data = samples.manifest(files=files, **changes).to_bytes()
    (folder / MANIFEST).write_bytes(data)
    return bundle_id(data)


def attacks() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Yield each attack: its name, and what spoils a good bundle's folder."""
    for name in (*CONTENT, MANIFEST):
        yield f"{name} with a changed byte", lambda folder, name=name: _flip(folder / name)
        yield f"{name} with a byte more", lambda folder, name=name: _append(folder / name)
        yield f"{name} missing", lambda folder, name=name: (folder / name).unlink()
        yield f"{name} a link to the same bytes", lambda folder, name=name: _link(folder / name)
        yield f"{name} a pipe", lambda folder, name=name: _pipe(folder / name)
        yield f"{name} a folder", lambda folder, name=name: _folder(folder / name)
    yield "an extra file", lambda folder: (folder / "more.bin").touch()
    yield "an extra hidden file", lambda folder: (folder / ".x").touch()
    yield "an extra folder", lambda folder: (folder / "sub").mkdir()
    yield "a manifest of 10^5 levels", lambda folder: (folder / MANIFEST).write_bytes(b"[" * 100_000)
    yield "a huge manifest", lambda folder: (folder / MANIFEST).write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    yield "an endless manifest", lambda folder: _endless(folder / MANIFEST)
    yield "a name outside the folder", _outside
    yield "a layout of other parameters", _other_layout
    yield "a layout of 10^5 levels", _deep_layout
    yield "no folder", lambda folder: folder.rename(folder.with_name("gone"))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def _link(path: Path) -> None:
    target = path.parent.with_name(f"target-{path.name}")
    path.rename(target)
    path.symlink_to(target)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _outside(folder: Path) -> None:
    value = plain(samples.manifest())
    value["files"]["../../etc/passwd"] = {"bytes": 1, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(value), "utf-8")


def _other_layout(folder: Path) -> None:
    fewer = replace(samples.LAYOUT, tensors=samples.LAYOUT.tensors[:2])
    (folder / "layout.json").write_bytes(fewer.to_bytes())
    vouch(folder)


def _deep_layout(folder: Path) -> None:
    (folder / "layout.json").write_bytes(b"[" * 100_000)
    vouch(folder)


def refusal_of(spoil: Callable[[Path], object], folder: Path) -> str | None:
    """Return what the reader says to a spoilt bundle, or None if it took it."""
    expected = make_bundle(folder)
    open_bundle(folder, expected_id=expected)
    spoil(folder)
    try:
        open_bundle(folder)
        open_bundle(folder, expected_id=expected)
    except BundleError as error:
        return str(error)
    return None


def refusal_of_graph(graph: bytes, folder: Path) -> str | None:
    """Return what the reader says to a bundle whose maker put ``graph`` into it and hashed it well, or None."""
    make_bundle(folder)
    (folder / "train.onnx").write_bytes(graph)
    vouch(folder)
    try:
        open_bundle(folder)
    except BundleError as error:
        return str(error)
    return None


def refusal_of_example_graph(graph: bytes | None, folder: Path) -> str | None:
    """Return what the reader says to a bundle whose graph of single examples is ``graph`` (None: missing), or None."""
    make_bundle(folder)
    engines = {"portable": replace(samples.manifest().engines["portable"], per_example="single.onnx")}
    if graph is not None:
        (folder / "single.onnx").write_bytes(graph)
    try:
        vouch(folder, more=() if graph is None else ("single.onnx",), engines=engines)
        open_bundle(folder)
    except (BundleError, FieldError) as error:
        return str(error)
    return None


def refusal_of_litert(data: bytes, folder: Path) -> str | None:
    """Return what the reader says to a bundle with a LiteRT file of its maker's, or None if it took it."""
    make_bundle(folder)
    (folder / "model.tflite").write_bytes(data)
    engines = {
        **samples.manifest().engines,
        "litert": EngineFiles(train="model.tflite", evaluate="model.tflite", buckets=(Bucket(batch=8, seq=16),)),
    }
    vouch(folder, more=("model.tflite",), engines=engines)
    try:
        open_bundle(folder)
    except BundleError as error:
        return str(error)
    return None


if __name__ == "__main__":
    for name, spoil in attacks():
        with tempfile.TemporaryDirectory() as there:
            print(f"{name}: {refusal_of(spoil, Path(there) / 'bundle')}")  # noqa: T201 - a script for people
