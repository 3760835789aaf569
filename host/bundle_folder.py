"""Opens a bundle folder after checking that it is exactly what its manifest says.

Laws: every byte of every named file is hashed before anything loads it; files are read through a descriptor opened
without following links; a file that the manifest doesn't name is refused, since a graph could refer to it; then every
ONNX graph and LiteRT file is read for what it may not hold (``protocol.onnx_reader``, ``protocol.tflite_reader``), so
that a maker of bundles who signs and hashes well still reaches no runtime with more than arithmetic.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from host.durable import open_plain, read_bytes
from protocol.bundle import LAYOUT, MANIFEST, MAX_MANIFEST_BYTES, WEIGHTS, Manifest, bundle_id
from protocol.errors import BundleError, StorageError
from protocol.layout import Layout
from protocol.onnx_operators import ALLOWED
from protocol.onnx_reader import MAX_GRAPH_BYTES, check_graph
from protocol.tflite_reader import check_tflite

if TYPE_CHECKING:
    from pathlib import Path

    from protocol.bundle import FileFacts

__all__ = ["Bundle", "check_file", "open_bundle"]

_CHUNK_BYTES = 1 << 20
_LITERT: Final = "litert"
_MAX_LAYOUT_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files were checked."""

    folder: Path
    id: str
    manifest: Manifest
    layout: Layout

    def path(self, name: str) -> Path:
        """Return the path of a file that the manifest names."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder}: the manifest has no file {name}")
        return self.folder / name


def open_bundle(folder: Path, *, expected_id: str | None = None) -> Bundle:
    """Check ``folder`` and return the bundle.

    Args:
        folder: what ``edgefold export`` wrote.
        expected_id: the id that a task names; any id if None.

    Raises:
        BundleError: no bundle, another bundle, a file changed, missing, linked or unnamed, or a graph that is not
            taken.
    """
    manifest_bytes = _read(folder / MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    this_id = bundle_id(manifest_bytes)
    if expected_id is not None and this_id != expected_id:
        raise BundleError(f"{folder}: expected bundle {expected_id[:12]}, found {this_id[:12]}")
    manifest = Manifest.from_bytes(manifest_bytes)
    _refuse_unnamed(folder, manifest)
    for name, facts in manifest.files.items():
        check_file(folder / name, facts)
    layout = Layout.from_bytes(_read(folder / LAYOUT, max_bytes=_MAX_LAYOUT_BYTES))
    if layout.n_params != manifest.adapter.n_params:
        raise BundleError(
            f"{folder}: {LAYOUT} has {layout.n_params} parameters, the manifest {manifest.adapter.n_params}"
        )
    _check_graphs(folder, manifest)
    return Bundle(folder=folder, id=this_id, manifest=manifest, layout=layout)


def _read(path: Path, *, max_bytes: int) -> bytes:
    try:
        return read_bytes(path, max_bytes=max_bytes, follow_links=False)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{path.parent}: no bundle here ({path.name} is missing)") from error
    except StorageError as error:
        raise BundleError(str(error)) from error


def _refuse_unnamed(folder: Path, manifest: Manifest) -> None:
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise BundleError(f"{folder}: cannot be listed: {error.strerror}") from error
    unnamed = sorted(names - manifest.files.keys() - {MANIFEST})
    if unnamed:
        raise BundleError(f"{folder}: not named in the manifest: {', '.join(map(repr, unnamed[:8]))[:200]}")


def _check_graphs(folder: Path, manifest: Manifest) -> None:
    weights = manifest.files.get(WEIGHTS)
    for engine, allowed in ALLOWED.items():
        files = manifest.engines.get(engine)
        if files is None:
            continue
        graphs = list(zip((files.train, files.evaluate), allowed, strict=True))
        graphs += [] if files.per_example is None else [(files.per_example, allowed[0])]
        for name, operators in graphs:
            data = _read(folder / name, max_bytes=MAX_GRAPH_BYTES)
            try:
                check_graph(
                    data, operators=operators, weights_name=WEIGHTS, weights_bytes=weights.bytes if weights else 0
                )
            except BundleError as error:
                raise BundleError(f"{folder / name}: {error}") from error
    litert = manifest.engines.get(_LITERT)
    for name in sorted({litert.train, litert.evaluate}) if litert is not None else ():
        _check_litert(folder / name)


def _check_litert(path: Path) -> None:
    """Read a LiteRT file where it lies: it holds the weights too, so it is mapped."""
    try:
        with open_plain(path, follow_links=False) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with mapped:
            check_tflite(mapped)
    except (BundleError, ValueError) as error:  # an empty file cannot be mapped
        raise BundleError(f"{path}: {error}") from error
    except (FileNotFoundError, StorageError) as error:
        raise BundleError(str(error)) from error


def check_file(path: Path, facts: FileFacts) -> None:
    """Hash a file and compare.

    Raises:
        BundleError: it is missing, a link, or not what ``facts`` say.
    """
    digest = hashlib.sha256()
    try:
        with open_plain(path, follow_links=False) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if n_bytes != facts.bytes:
                raise BundleError(f"{path}: expected {facts.bytes} bytes, found {n_bytes}")
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing") from error
    except StorageError as error:
        raise BundleError(str(error)) from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    if digest.hexdigest() != facts.sha256:
        raise BundleError(f"{path}: its content is not what the manifest says")
