"""Devices fetch bundles over HTTPS; everybody else, and everything else, is refused."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from aggregator.adapters.authority import make_authority
from aggregator.adapters.issuing_keys import renew_issuing
from aggregator.bundle_settings import BundleSettings
from aggregator.bundle_shelf import ShelvedFile
from aggregator.web.bundle_server import BundleServer, byte_range
from host.tls import TlsFiles, client_context
from protocol.bundle import MANIFEST
from protocol.errors import ConfigError
from protocol.fields import FieldError
from tests.aggregator.bundle_host import WAIT_S, BundleHost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path) -> Iterator[BundleHost]:
    made = BundleHost(tmp_path, max_device_connections=2)
    yield made
    made.close()


def is_refused(host: BundleHost, files: TlsFiles) -> bool:
    try:
        host.get(host.path(MANIFEST), files=files)
    except (OSError, http.client.HTTPException):
        return True
    return False


def test_a_device_gets_each_file_that_the_manifest_names_and_the_manifest(host: BundleHost) -> None:
    for name in (*host.bundle.manifest.files, MANIFEST):
        data = (host.bundle.folder / name).read_bytes()
        status, headers, body = host.get(host.path(name))
        assert (status, body) == (200, data)
        assert headers["accept-ranges"] == "bytes"
    assert host.get(host.path("adapter.f32"), method="HEAD")[::2] == (200, b"")


def test_a_range_begins_where_it_is_asked_to(host: BundleHost) -> None:
    data = (host.bundle.folder / "adapter.f32").read_bytes()
    status, headers, body = host.get(host.path("adapter.f32"), Range="bytes=100-")
    assert (status, body) == (206, data[100:])
    assert headers["content-range"] == f"bytes 100-{len(data) - 1}/{len(data)}"
    assert host.get(host.path("adapter.f32"), Range="bytes=3-5")[::2] == (206, data[3:6])
    assert host.get(host.path("adapter.f32"), Range=f"bytes={len(data)}-")[0] == 416
    assert host.get(host.path("adapter.f32"), Range="bytes=3-", If_Range='"other"')[::2] == (200, data)


@pytest.mark.parametrize(
    ("said", "span"),
    [
        ("bytes=0-", (0, 10)),
        ("bytes=9-", (9, 1)),
        ("bytes=2-4", (2, 3)),
        ("bytes=2-99", (2, 8)),
        ("bytes=10-", None),
        ("bytes=4-2", (0, 10)),
        ("bytes=-3", (0, 10)),
        ("bytes=1-2,4-5", (0, 10)),
        ("bytes=٣-", (0, 10)),
        ("bytes=" + "9" * 40 + "-", (0, 10)),
        ("lines=1-", (0, 10)),
        ("", (0, 10)),
    ],
)
def test_what_is_no_single_range_is_answered_with_the_whole(
    said: str, span: tuple[int, int] | None, tmp_path: Path
) -> None:
    found = ShelvedFile(path=tmp_path, n_bytes=10, tag="a")
    assert byte_range([(b"range", said.encode("utf-8"))], found) == span


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/bundles/",
        "{prefix}/../../ca/issuing.key",
        "{prefix}/%2e%2e/%2e%2e/ca/issuing.key",
        "{prefix}/..%2f..%2fca%2fissuing.key",
        "{prefix}//adapter.f32",
        "{prefix}/adapter.f32/",
        "{prefix}/adapter.f32%00",
        "{prefix}/unnamed.txt",
        "/v1/bundles/" + "0" * 64 + "/adapter.f32",
        "//127.0.0.1/etc/passwd",
        "/etc/passwd",
    ],
)
def test_no_path_of_a_request_reaches_the_file_system(host: BundleHost, path: str) -> None:
    (host.bundle.folder / "unnamed.txt").write_text("not in the manifest")
    status, _, body = host.get(path.format(prefix=host.path("").rstrip("/")))
    assert (status, body) == (404, b"")


def test_a_file_that_became_a_link_is_not_followed(host: BundleHost) -> None:
    file = host.bundle.folder / "adapter.f32"
    file.unlink()
    file.symlink_to(host.folder / "ca" / "issuing.key")
    assert host.get(host.path("adapter.f32"))[::2] == (404, b"")


def test_no_other_method_is_taken(host: BundleHost) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert host.get(host.path(MANIFEST), method=method)[0] == 405


def test_nobody_without_a_certificate_of_the_fleet_is_let_in(host: BundleHost, tmp_path: Path) -> None:
    assert is_refused(host, TlsFiles(root=tmp_path / "ca" / "root.pem"))
    stranger = make_authority(tmp_path / "other", fleet="f", host="127.0.0.1", now=datetime.now(UTC))
    assert is_refused(host, host.device("stranger", authority=stranger))
    assert is_refused(host, host.device("late", ago_s=10 * 86_400))
    server = TlsFiles(
        root=tmp_path / "ca" / "root.pem",
        certificate=tmp_path / "ca" / "server.pem",
        key=tmp_path / "ca" / "server.key",
    )
    assert is_refused(host, server)  # a certificate for servers makes nobody a device
    assert not is_refused(host, host.tls)


def test_a_revoked_device_is_refused_from_its_next_connection_on(host: BundleHost) -> None:
    other = host.device("other")
    host.authority.write_crl([host.serials["pi"]], unix_s=time.time())
    assert is_refused(host, host.tls)
    assert not is_refused(host, other)


def test_one_device_cannot_take_all_connections(host: BundleHost) -> None:
    other = host.device("other")
    idle = []
    for _ in range(2):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", host.port, timeout=WAIT_S, context=client_context(host.tls)
        )
        connection.request("GET", host.path("adapter.f32"))
        connection.getresponse().read()
        idle.append(connection)  # kept open, as HTTP/1.1 has it
    assert is_refused(host, host.tls)
    assert not is_refused(host, other)
    for connection in idle:
        connection.close()
    until_s = time.monotonic() + WAIT_S
    while is_refused(host, host.tls) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not is_refused(host, host.tls)


def test_a_connection_has_a_longest_life(tmp_path: Path) -> None:
    host = BundleHost(tmp_path, max_connection_s=1.0)
    context = client_context(host.tls)
    connection = http.client.HTTPSConnection("127.0.0.1", host.port, timeout=WAIT_S, context=context)
    connection.connect()
    connection.sock.sendall(b"GET /drip")  # ... and never the rest
    began_s = time.monotonic()
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        assert connection.sock.recv(1) == b""
    assert time.monotonic() - began_s < WAIT_S / 2
    connection.close()
    host.close()


def test_a_taken_port_and_an_address_without_tls_are_one_line(host: BundleHost) -> None:
    with pytest.raises(ConfigError, match="bundles: cannot listen on"):
        BundleServer(host.settings, host.shelf, host.authority)
    with pytest.raises(FieldError, match="url: expected https"):
        BundleSettings(url="http://files.example")


def test_after_a_new_issuing_key_devices_of_both_keys_fetch_and_of_a_stolen_one_none(host: BundleHost) -> None:
    folder, old, now = host.authority.file(""), host.device("old"), datetime.now(UTC)
    for until_unix_s in (now.timestamp() + 86_400.0, None):
        renew_issuing(
            folder, "f", root_key_file=folder / "root.key", keep_until_unix_s=until_unix_s, now=datetime.now(UTC)
        )
        host.authority.refresh()
        host.authority.write_crl([], unix_s=time.time())
        assert is_refused(host, old) == (until_unix_s is None)
        assert not is_refused(host, host.device("new"))
