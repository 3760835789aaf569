"""Blobs: named by content, checked on the way out, swept at the start."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.blob_store import FolderBlobStore
from host.durable import TEMP_PREFIX
from protocol.errors import LocalProtocolError, StorageError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_blob_comes_back_under_the_hash_of_its_content(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path / "blobs")
    name = store.put(b"bytes")
    assert name == hashlib.sha256(b"bytes").hexdigest() == store.put(b"bytes")
    assert store.get(name, max_bytes=5) == b"bytes"


def test_a_changed_missing_or_longer_blob_is_a_storage_error(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path)
    name = store.put(b"bytes")
    with pytest.raises(StorageError, match="longer"):
        store.get(name, max_bytes=4)
    (tmp_path / name).write_bytes(b"Bytes")
    with pytest.raises(StorageError, match="changed"):
        store.get(name, max_bytes=5)
    store.remove(name)
    store.remove(name)
    with pytest.raises(StorageError, match="missing"):
        store.get(name, max_bytes=5)


@pytest.mark.parametrize("name", ["../secret", "", "A" * 64, "0" * 63])
def test_no_name_leaves_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError):
        FolderBlobStore(tmp_path).get(name, max_bytes=1)


def test_keep_only_removes_orphans_and_halves(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path)
    kept, orphan = store.put(b"kept"), store.put(b"orphan")
    (tmp_path / f"{TEMP_PREFIX}x").write_bytes(b"half")
    (tmp_path / "README").write_bytes(b"not ours")
    assert store.keep_only({kept}) == 1
    assert {path.name for path in tmp_path.iterdir()} == {kept, "README"}
    assert orphan != kept
