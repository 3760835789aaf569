"""A bundle comes whole or not at all, whatever the server, the network or the disk does."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.fetched_bundles import FetchedBundles, NoRoomError
from edge_agent.adapters.https_files import HttpsFiles, parse_bundle_url
from edge_agent.bundle_fetch import BundleFetch
from host.bundle_folder import Bundle, open_bundle
from host.tls import client_context
from protocol.bundle import MANIFEST
from protocol.errors import (
    BundleError,
    ConfigError,
    EdgefoldError,
    EngineError,
    StorageError,
    TransportError,
    TrustError,
)
from tests.aggregator.bundle_host import WAIT_S, BundleHost
from tests.aggregator.workbench import make_bundle
from tests.edge_agent.hostile_host import HostileHost, head

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

ADAPTER = "adapter.f32"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BundleHost]:
    made = BundleHost(tmp_path_factory.mktemp("host"))
    yield made
    made.close()


@pytest.fixture
def fetched(tmp_path: Path) -> FetchedBundles:
    return FetchedBundles(tmp_path / "bundles", max_bytes=1 << 20, free_bytes=0)


@pytest.fixture
def hostile(host: BundleHost) -> Iterator[Callable[..., HttpsFiles]]:
    """Return what makes the files of a server that is honest except for what the test says."""
    made: list[HostileHost] = []

    def make(answer: Callable[[str, int, ssl.SSLSocket], bool], *, timeout_s: float = 5.0) -> HttpsFiles:
        def reply(path: str, first: int, stream: ssl.SSLSocket) -> None:
            if not answer(path, first, stream):
                data = (host.bundle.folder / path.partition("/")[2]).read_bytes()
                part = f"Content-Range: bytes {first}-{len(data) - 1}/{len(data)}"
                more, status = ((part,), "206 Partial Content") if first else ((), "200 OK")
                stream.sendall(head(len(data) - first, status, *more) + data[first:])

        made.append(HostileHost(host.folder / "ca", reply))
        return HttpsFiles(made[-1].url, lambda: client_context(host.tls), timeout_s=timeout_s)

    make.made = made  # type: ignore[attr-defined]  # for what they were asked
    yield make
    for one in made:
        one.close()


def files_of(host: BundleHost) -> HttpsFiles:
    return HttpsFiles(host.url, lambda: client_context(host.tls))


def whole_bundles(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "bundles").iterdir() if not path.name.startswith(".")]


def about(name: str, do: Callable[[int, ssl.SSLSocket], None]) -> Callable[[str, int, ssl.SSLSocket], bool]:
    """Return an answer to requests for one file."""

    def answer(path: str, first: int, stream: ssl.SSLSocket) -> bool:
        if path.endswith("/" + name):
            do(first, stream)
            return True
        return False

    return answer


def test_a_bundle_comes_from_the_service_is_checked_and_found_again(
    host: BundleHost, fetched: FetchedBundles, tmp_path: Path
) -> None:
    bundle = fetched.fetch(host.bundle.id, files_of(host))
    assert bundle.folder == tmp_path / "bundles" / host.bundle.id
    assert open_bundle(bundle.folder).manifest == host.bundle.manifest
    assert [one.id for one in fetched.load()] == [host.bundle.id]
    assert whole_bundles(tmp_path) == [host.bundle.id]


def test_a_cut_download_goes_on_where_it_stood_after_a_restart(
    host: BundleHost, fetched: FetchedBundles, hostile: Callable[..., HttpsFiles], tmp_path: Path
) -> None:
    data = (host.bundle.folder / ADAPTER).read_bytes()
    cut = hostile(about(ADAPTER, lambda _, stream: stream.sendall(head(len(data)) + data[:100])))
    with pytest.raises(TransportError, match="ended 284 bytes early"):
        fetched.fetch(host.bundle.id, cut)
    assert whole_bundles(tmp_path) == []
    honest = hostile(lambda *_: False)
    again = FetchedBundles(tmp_path / "bundles", max_bytes=1 << 20, free_bytes=0)
    assert again.load() == []
    assert again.fetch(host.bundle.id, honest).id == host.bundle.id
    asked = hostile.made[-1].asked  # type: ignore[attr-defined]
    assert (f"{host.bundle.id}/{ADAPTER}", 100) in asked
    assert all(not path.endswith(MANIFEST) for path, _ in asked)


def test_a_server_that_knows_no_ranges_begins_anew(
    host: BundleHost, fetched: FetchedBundles, hostile: Callable[..., HttpsFiles], tmp_path: Path
) -> None:
    data = (host.bundle.folder / ADAPTER).read_bytes()
    partial = tmp_path / "bundles" / f".partial-{host.bundle.id}"
    partial.mkdir()
    (partial / ADAPTER).write_bytes(data[:7])
    plain = hostile(about(ADAPTER, lambda _, stream: stream.sendall(head(len(data)) + data)))
    assert fetched.fetch(host.bundle.id, plain).id == host.bundle.id


def test_zeros_that_a_power_cut_left_are_fetched_again(
    host: BundleHost, fetched: FetchedBundles, tmp_path: Path
) -> None:
    n_bytes = (host.bundle.folder / ADAPTER).stat().st_size
    for n_zeros in (200, n_bytes, n_bytes + 9):
        partial = tmp_path / "bundles" / f".partial-{host.bundle.id}"
        partial.mkdir()
        (partial / ADAPTER).write_bytes(bytes(n_zeros))
        assert fetched.fetch(host.bundle.id, files_of(host)).id == host.bundle.id
        shutil.rmtree(tmp_path / "bundles" / host.bundle.id)


@pytest.mark.parametrize("name", [ADAPTER, "train.onnx", MANIFEST])
def test_wrong_bytes_are_refused_and_not_kept(
    host: BundleHost, fetched: FetchedBundles, hostile: Callable[..., HttpsFiles], tmp_path: Path, name: str
) -> None:
    data = (host.bundle.folder / name).read_bytes()
    wrong = hostile(about(name, lambda _, stream: stream.sendall(head(len(data)) + data[:-1] + b"?")))
    with pytest.raises(BundleError, match="the server gave"):
        fetched.fetch(host.bundle.id, wrong)
    assert whole_bundles(tmp_path) == []
    assert not (tmp_path / "bundles" / f".partial-{host.bundle.id}" / name).exists()
    assert fetched.fetch(host.bundle.id, files_of(host)).id == host.bundle.id


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (head(383), TrustError),  # shorter than the manifest says
        (head(1 << 40), TrustError),
        (head(384, "206 Partial Content", "Content-Range: bytes 0-383/384"), TransportError),  # nobody asked for a part
        (head(0, "302 Found", "Location: https://127.0.0.1/elsewhere"), TransportError),
        (head(0, "404 Not Found"), TransportError),
        (head(0, "503 Service Unavailable"), TransportError),
        (b"SSH-2.0-OpenSSH\r\n", TransportError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n", TransportError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, TransportError),
        (b"", TransportError),
    ],
)
def test_a_server_that_contradicts_itself_or_fails_is_an_error_and_no_file(
    host: BundleHost,
    fetched: FetchedBundles,
    hostile: Callable[..., HttpsFiles],
    tmp_path: Path,
    answer: bytes,
    error: type[EdgefoldError],
) -> None:
    with pytest.raises(error):
        fetched.fetch(host.bundle.id, hostile(about(ADAPTER, lambda _, stream: stream.sendall(answer))))
    assert whole_bundles(tmp_path) == []


def test_an_answer_without_end_is_read_no_further_than_the_file_is_long(
    host: BundleHost, fetched: FetchedBundles, hostile: Callable[..., HttpsFiles]
) -> None:
    data = (host.bundle.folder / ADAPTER).read_bytes()
    n_sent = []

    def flood(_: int, stream: ssl.SSLSocket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + data)  # no length: until the connection ends
        n_sent.extend(stream.send(bytes(65536)) for _ in range(1000))

    assert fetched.fetch(host.bundle.id, hostile(about(ADAPTER, flood))).id == host.bundle.id
    assert sum(n_sent) < 30 << 20


def test_a_silent_and_a_dripping_server_are_left(
    host: BundleHost, fetched: FetchedBundles, hostile: Callable[..., HttpsFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = hostile(about(ADAPTER, lambda _, stream: stream.recv(1) and None), timeout_s=0.3)
    with pytest.raises(TransportError, match="timed out"):
        fetched.fetch(host.bundle.id, silent)

    def drip(_: int, stream: ssl.SSLSocket) -> None:
        stream.sendall(head(384))
        for _again in range(300):
            stream.sendall(b"x")
            time.sleep(0.02)

    monkeypatch.setattr("edge_agent.adapters.https_files._WINDOW_S", 0.3)
    with pytest.raises(TransportError, match=r"only [0-9]+ bytes"):
        fetched.fetch(host.bundle.id, hostile(about(ADAPTER, drip)))


def test_a_manifest_without_a_bound_is_refused(
    host: BundleHost, fetched: FetchedBundles, hostile: Callable[..., HttpsFiles]
) -> None:
    for answer in (head(1 << 30), b"HTTP/1.1 200 OK\r\n\r\n{}"):
        with pytest.raises(TrustError, match="stated length"):
            fetched.fetch(host.bundle.id, hostile(about(MANIFEST, lambda _, stream, said=answer: stream.sendall(said))))


def test_a_bundle_whose_hashes_hold_and_whose_graph_is_not_taken_is_no_bundle(
    tmp_path: Path, hostile: Callable[..., HttpsFiles]
) -> None:
    fetched = FetchedBundles(tmp_path / "bundles", max_bytes=1 << 20, free_bytes=0)
    bad = make_bundle(tmp_path / "bad")
    manifest = open_bundle(bad).manifest
    graph = b"\xff" * 40
    facts = dataclasses.replace(
        manifest.files["train.onnx"], bytes=len(graph), sha256=hashlib.sha256(graph).hexdigest()
    )
    manifest = dataclasses.replace(manifest, files={**manifest.files, "train.onnx": facts})
    (bad / "train.onnx").write_bytes(graph)
    (bad / MANIFEST).write_bytes(manifest.to_bytes())
    bad_id = hashlib.sha256(manifest.to_bytes()).hexdigest()

    def answer(path: str, _first: int, stream: ssl.SSLSocket) -> bool:
        data = (bad / Path(path).name).read_bytes()
        stream.sendall(head(len(data)) + data)
        return True

    with pytest.raises(BundleError):
        fetched.fetch(bad_id, hostile(answer))
    assert list((tmp_path / "bundles").iterdir()) == []


def test_a_server_of_another_fleet_is_not_believed(host: BundleHost, fetched: FetchedBundles, tmp_path: Path) -> None:
    other = BundleHost(tmp_path)
    with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED"):
        fetched.fetch(host.bundle.id, HttpsFiles(other.url, lambda: client_context(host.tls)))
    other.close()


def test_a_bundle_that_has_no_room_is_not_begun(host: BundleHost, tmp_path: Path) -> None:
    small = FetchedBundles(tmp_path / "small", max_bytes=300, free_bytes=0)
    with pytest.raises(StorageError, match="max_mb allows 300"):
        small.fetch(host.bundle.id, files_of(host))
    full = FetchedBundles(tmp_path / "full", max_bytes=1 << 20, free_bytes=1 << 60)
    with pytest.raises(NoRoomError):
        full.fetch(host.bundle.id, files_of(host))
    assert [path.name for path in (tmp_path / "full" / f".partial-{host.bundle.id}").iterdir()] == [MANIFEST]


def test_a_damaged_bundle_is_removed_at_the_start_and_fetched_again(
    host: BundleHost, fetched: FetchedBundles, tmp_path: Path
) -> None:
    folder = fetched.fetch(host.bundle.id, files_of(host)).folder
    (folder / ADAPTER).write_bytes(b"")
    assert fetched.load() == []
    assert whole_bundles(tmp_path) == []
    assert fetched.fetch(host.bundle.id, files_of(host)).id == host.bundle.id


def test_ids_are_no_paths(host: BundleHost, fetched: FetchedBundles) -> None:
    for bad in ("../x", "A" * 64, "", "0" * 63 + "\n"):
        with pytest.raises(BundleError, match="64 hex digits"):
            fetched.fetch(bad, files_of(host))


@pytest.mark.parametrize(
    "url",
    [
        "http://h/",
        "https://",
        "https://h:0/",
        "https://h:x/",
        "https://u:p@h/",
        "https://h/?a",
        "https://h/#a",
        "https://[::1",
        "https://h/\n",
    ],
)
def test_an_address_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="expected https://HOST"):
        parse_bundle_url(url)


class Fetching:
    """A ``BundleFetch`` over a source that the test decides about."""

    def __init__(self, fetched: FetchedBundles, files: object) -> None:
        self.now_s, self.held, self.taken = 0.0, dict[str, Path](), list[Bundle]()
        self.trials = list[EdgefoldError | None]()  # what the next ones come to
        self.fetch = BundleFetch(
            fetched,
            files,
            take=self.taken.append,
            wake=lambda: None,
            test=self.test,
            clock=lambda: self.now_s,  # type: ignore[arg-type]
        )

    def test(self, _bundle: Bundle) -> None:
        if self.trials and (error := self.trials.pop(0)) is not None:
            raise error

    def settle(self, needed: set[str]) -> bool:
        """Let what is due be done; return whether anything came."""
        self.fetch.turn(needed, self.held)
        thread = self.fetch._thread
        if thread is not None:
            thread.join(WAIT_S)
        return self.fetch.turn(needed, self.held)


class Broken:
    """Fails each time."""

    def __init__(self, error: EdgefoldError) -> None:
        self.error, self.n_asked = error, 0

    def read_small(self, path: str, *, max_bytes: int) -> bytes:
        del path, max_bytes
        self.n_asked += 1
        raise self.error


def test_what_an_announced_task_needs_is_fetched_on_a_thread_of_its_own(
    host: BundleHost, fetched: FetchedBundles
) -> None:
    rig = Fetching(fetched, files_of(host))
    assert not rig.settle(set())
    assert rig.settle({host.bundle.id})
    assert rig.held == {host.bundle.id: rig.taken[0].folder}
    assert not rig.settle({host.bundle.id})


def test_a_bundle_that_does_not_work_here_is_tried_again_later_and_not_fetched_again(
    host: BundleHost, fetched: FetchedBundles, hostile: Callable[..., HttpsFiles]
) -> None:
    counting = hostile(lambda *_: False)
    rig = Fetching(fetched, counting)
    rig.trials = [EngineError("no memory"), None]
    assert not rig.settle({host.bundle.id})
    assert not rig.held
    n_asked = len(hostile.made[-1].asked)  # type: ignore[attr-defined]
    rig.now_s = 3599.0
    assert not rig.settle({host.bundle.id})
    rig.now_s = 3601.0
    assert rig.settle({host.bundle.id})
    assert rig.held.keys() == {host.bundle.id}
    assert len(hostile.made[-1].asked) == n_asked  # type: ignore[attr-defined]


def test_a_failed_connection_is_tried_again_soon_and_a_refusal_late(fetched: FetchedBundles) -> None:
    for error, soon in ((TransportError("x"), True), (TrustError("x"), False)):
        broken = Broken(error)
        rig = Fetching(fetched, broken)
        rig.settle({"0" * 64})
        for _ in range(20):
            rig.settle({"0" * 64})
        assert broken.n_asked <= 2  # full jitter may say: at once
        rig.now_s = 301.0
        rig.settle({"0" * 64})
        assert (broken.n_asked >= 2) is soon
        rig.now_s = 4000.0
        rig.settle({"0" * 64})
        assert broken.n_asked >= 2


def test_bundles_that_nobody_needs_go_first_when_room_is_needed(host: BundleHost, tmp_path: Path) -> None:
    n_bytes = sum(path.stat().st_size for path in host.bundle.folder.iterdir())
    fetched = FetchedBundles(tmp_path / "bundles", max_bytes=2 * n_bytes, free_bytes=0)
    for seed, needed in ((7, True), (8, False)):
        made = open_bundle(make_bundle(tmp_path / f"made{seed}", seed=seed))
        shutil.copytree(made.folder, tmp_path / "bundles" / made.id)
        if needed:
            kept = made.id
        else:
            gone = made.id
    rig = Fetching(fetched, files_of(host))
    rig.held = {one.id: one.folder for one in fetched.load()}
    assert rig.held.keys() == {kept, gone}
    rig.settle({host.bundle.id, kept})
    assert rig.settle({host.bundle.id, kept})
    assert rig.held.keys() == {host.bundle.id, kept}
    assert sorted(whole_bundles(tmp_path)) == sorted(rig.held)
