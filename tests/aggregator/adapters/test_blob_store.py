"""Blobs: one contract for the folder and for a real S3 server, then what is each one's own."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.blob_store import FolderBlobStore
from aggregator.away import BlobsAwayError
from aggregator.blob_place import open_blobs
from aggregator.blob_settings import ObjectPlace, ObjectStorageSettings, object_place_of
from deploy.object_server import BUCKET
from host.durable import TEMP_PREFIX
from protocol.errors import ConfigError, LocalProtocolError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aggregator.blob_place import BlobPlace
    from deploy.object_server import ObjectServer


class Kept:
    """A place of blobs, and what lies in it as a person would find it."""

    def __init__(self, blobs: BlobPlace, folder: Path) -> None:
        self.blobs, self.folder = blobs, folder


@pytest.fixture(params=["folder", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    if request.param == "folder":
        yield Kept(open_blobs(tmp_path / "blobs"), tmp_path / "blobs")
        return
    server: ObjectServer = request.getfixturevalue("object_server")
    place: ObjectPlace = request.getfixturevalue("object_place")
    blobs = open_blobs(place)
    (server.folder / "data" / place.path).mkdir(parents=True)
    yield Kept(blobs, server.folder / "data" / place.path)
    blobs.close()


def test_a_blob_comes_back_under_the_hash_of_its_content(kept: Kept) -> None:
    name = kept.blobs.put(b"bytes")
    assert name == hashlib.sha256(b"bytes").hexdigest() == kept.blobs.put(b"bytes")
    assert kept.blobs.get(name, max_bytes=5) == b"bytes"
    assert (kept.folder / name).read_bytes() == b"bytes"


def test_a_changed_missing_or_longer_blob_is_a_storage_error(kept: Kept) -> None:
    name = kept.blobs.put(b"bytes")
    with pytest.raises(StorageError, match="longer"):
        kept.blobs.get(name, max_bytes=4)
    (kept.folder / name).write_bytes(b"Bytes")
    with pytest.raises(StorageError, match="changed"):
        kept.blobs.get(name, max_bytes=5)
    kept.blobs.remove(name)
    kept.blobs.remove(name)
    with pytest.raises(StorageError, match="missing"):
        kept.blobs.get(name, max_bytes=5)


@pytest.mark.parametrize("name", ["../secret", "", "A" * 64, "0" * 63])
def test_no_name_leaves_the_place(name: str, kept: Kept) -> None:
    with pytest.raises(LocalProtocolError):
        kept.blobs.get(name, max_bytes=1)
    with pytest.raises(LocalProtocolError):
        kept.blobs.remove(name)


def test_sizes_and_keep_only_know_blobs_and_nothing_else(kept: Kept) -> None:
    assert kept.blobs.sizes() == {}
    name, orphan = kept.blobs.put(b"kept"), kept.blobs.put(b"an orphan")
    (kept.folder / "README").write_bytes(b"not ours")
    (kept.folder / "deeper").mkdir()
    (kept.folder / "deeper" / name).write_bytes(b"not ours either")
    kept.blobs.own("somebody")
    assert kept.blobs.sizes() == {name: 4, orphan: 9}
    assert kept.blobs.keep_only({name}) == 1
    assert kept.blobs.keep_only({name}) == 0
    assert kept.blobs.sizes() == {name: 4}
    assert {path.name for path in kept.folder.iterdir()} == {name, "README", "deeper", "OWNER"}


def test_a_place_knows_whose_it_is(kept: Kept) -> None:
    assert kept.blobs.owner() is None
    kept.blobs.own("0123")
    assert kept.blobs.owner() == "0123"
    kept.blobs.disown()
    kept.blobs.disown()
    assert kept.blobs.owner() is None


def test_a_folder_sweeps_the_halves_of_interrupted_writes(tmp_path: Path) -> None:
    (tmp_path / f"{TEMP_PREFIX}x").write_bytes(b"half")
    assert FolderBlobStore(tmp_path).keep_only(set()) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_was_killed_is_away_and_comes_back(
    own_object_server: Callable[[], tuple[ObjectServer, ObjectPlace]],
) -> None:
    server, place = own_object_server()
    blobs = open_blobs(place)
    name = blobs.put(b"bytes")
    server.kill()
    for call in (lambda: blobs.put(b"more"), lambda: blobs.get(name, max_bytes=9), blobs.sizes, blobs.owner):
        with pytest.raises(BlobsAwayError, match="s3://"):
            call()
    server.start()
    assert blobs.get(name, max_bytes=9) == b"bytes"
    blobs.close()


def test_wrong_keys_and_a_missing_bucket_are_one_line_without_a_secret(
    object_place: ObjectPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = open_blobs(ObjectPlace(bucket="nowhere", prefix="", settings=object_place.settings))
    with pytest.raises(ConfigError, match="s3://nowhere: there is no bucket"):
        nowhere.put(b"bytes")
    nowhere.close()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    wrong = open_blobs(object_place)
    with pytest.raises(StorageError) as refused:
        wrong.put(b"bytes")
    wrong.close()
    assert not isinstance(refused.value, BlobsAwayError)
    assert "a-wrong-secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_keys_the_line_says_where_they_go(object_place: ObjectPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    blobs = open_blobs(object_place)
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        blobs.put(b"bytes")
    blobs.close()


@pytest.mark.parametrize(
    ("url", "endpoint", "said"),
    [
        ("gs://bucket", None, "gs:// is not known"),
        ("s3://key:secret@bucket/x", None, "no keys in the URL"),
        ("s3:///x", None, "expected s3://BUCKET/PREFIX"),
        ("s3://bucket/../x", None, "expected s3://BUCKET/PREFIX"),
        ("s3://bucket", "http://storage.example", "plain HTTP is for loopback only"),
        ("s3://bucket", "https://me:secret@storage.example", "do not belong into a URL"),
        ("s3://bucket", "ftp://storage.example", "expected https://HOST"),
    ],
)
def test_a_bad_place_is_one_line(url: str, endpoint: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        object_place_of(url, ObjectStorageSettings(endpoint_url=endpoint))
    assert "secret" not in str(refused.value)


def test_an_endpoint_of_the_environment_is_held_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example")
    with pytest.raises(ConfigError, match="loopback only"):
        open_blobs(object_place_of(f"s3://{BUCKET}", ObjectStorageSettings(region="us-east-1")))
