"""What the local endpoint refuses: too long, too slow, no JSON, another site's page, a wrong path."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.local import loopback_http as module
from edge_agent.local.endpoint import ask
from edge_agent.local.loopback_http import Asked, start_server
from protocol.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BODY = 1000


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(module, "READ_S", 1.0)

    def echo(asked: Asked) -> dict[str, Any]:
        if asked.body == "slow":
            time.sleep(1.5)
        if asked.body == "bad":
            raise ConfigError("input 0: bad")
        if asked.body == "broken":
            raise EngineError("out of memory")
        return {"body": asked.body, "bearer": asked.bearer}

    routes = {("POST", "/echo"): echo, ("GET", "/health"): echo}
    server = start_server(0, routes, max_body_bytes=MAX_BODY, max_connections=2)
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def sent(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    named = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_a_good_request_is_answered(port: int) -> None:
    assert sent(port, "POST", "/echo", b'{"a": 1}') == (200, {"body": {"a": 1}, "bearer": None})
    assert sent(port, "POST", "/echo?x=1", b"[]", Authorization="Bearer t0") == (200, {"body": [], "bearer": "t0"})
    assert ask(port, "POST", "/echo", {"b": 2}, bearer="k") == {"body": {"b": 2}, "bearer": "k"}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        ("POST", "/echo", b"{", {}, 400, "not JSON"),
        ("POST", "/echo", b"", {}, 400, "not JSON"),
        ("POST", "/echo", b"\xff\xfe", {}, 400, "not JSON"),
        ("POST", "/echo", b"[" * 900, {}, 400, "not JSON"),
        ("POST", "/echo", b" " * (MAX_BODY + 1), {}, 413, "at most 1000"),
        ("POST", "/echo", b"{}", {"Content_Type": "text/plain"}, 415, "application/json"),
        ("POST", "/echo", b"{}", {"Host": "evil.example"}, 403, "Host"),
        ("POST", "/echo", b"{}", {"Host": "evil.example:80"}, 403, "Host"),
        ("POST", "/echo", b"{}", {"Content_Length": "-1"}, 411, "Content-Length"),
        ("POST", "/echo", b"{}", {"Transfer_Encoding": "chunked"}, 411, "Content-Length"),
        ("POST", "/none", b"{}", {}, 404, "no such path"),
        ("GET", "/../../etc/passwd", None, {}, 404, "no such path"),
        ("GET", "/echo", None, {}, 405, "takes POST"),
        ("POST", "/health", b"{}", {}, 405, "takes GET"),
        ("DELETE", "/echo", None, {}, 501, "Not Implemented"),
        ("POST", "/echo", b'"bad"', {}, 400, "input 0: bad"),
        ("POST", "/echo", b'"broken"', {}, 503, "out of memory"),
        ("GET", "/" + "x" * 70_000, None, {}, 414, "Long"),
        ("GET", "/health", None, {"X": "y" * 70_000}, 431, "Large"),
    ],
    ids=range(19),
)
def test_a_hostile_request_is_one_line_of_json(  # noqa: PLR0917 - a table
    port: int, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int, words: str
) -> None:
    got, answer = sent(port, method, path, body, **headers)
    assert (got, list(answer)) == (status, ["error"])
    assert words in answer["error"]


def test_a_slow_drip_is_cut_and_others_are_served_meanwhile(port: int) -> None:
    drip = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = "POST /echo HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Content-Length: 90", "", "{"
    drip.sendall("\r\n".join(head).encode())
    began = time.monotonic()
    assert sent(port, "POST", "/echo", b"1")[0] == 200
    drip.settimeout(30)
    while drip.recv(4096):
        pass
    assert time.monotonic() - began < 15
    drip.close()


def test_more_connections_than_places_wait_and_are_all_answered(port: int) -> None:
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(sent(port, "POST", "/echo", b'"slow"')[0])) for _ in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert answers == [200] * 4  # computing longer than READ_S is no slow request


def test_it_listens_on_loopback_alone(port: int) -> None:
    with socket.socket() as outside:
        outside.settimeout(5)
        with pytest.raises(OSError, match=r"refused|unreachable"):
            outside.connect(("127.0.0.2", port))


def test_a_taken_port_is_one_line(port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="cannot be listened on"):
            start_server(other.getsockname()[1], {}, max_body_bytes=1, max_connections=1)
    assert ask(port, "GET", "/health") is not None


def test_nobody_there_is_none(port: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert ask(free.getsockname()[1], "GET", "/health") is None
    with pytest.raises(ConfigError, match="input 0"):
        ask(port, "POST", "/echo", "bad")
