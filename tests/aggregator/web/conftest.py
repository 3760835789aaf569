"""A real HTTP server over the database of a bench, and somebody who asks it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.adapters.sql_access import SqlAccess
from aggregator.config import Config, DevicesSettings, ServiceSettings
from aggregator.core.access import AccessRecord, Role, digest_of
from aggregator.http_settings import HttpSettings
from aggregator.pulse import Pulse
from aggregator.web.server import WebServer
from tests.aggregator.workbench import FLEET, Bench, evaluation_sets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message
    from pathlib import Path


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Site:
    """The server, its bench, and tokens of each role."""

    bench: Bench
    url: str
    pulse: Pulse
    tokens: dict[Role, str]

    def ask(
        self,
        path: str,
        *,
        role: Role | None = "viewer",
        data: object = None,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Answer:
        """Ask for a path; ``data`` is sent as JSON, bytes as they are; ``token`` overrides the role's."""
        sent = dict(headers or {})
        token = options.get("token", self.tokens[role] if role else None)
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        body = data if isinstance(data, bytes) else None if data is None else json.dumps(data).encode()
        if body is not None:
            sent.setdefault("content-type", "application/json")
        request = urllib.request.Request(self.url + path, body, sent, method=method)  # noqa: S310 - our own server
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def api(self, path: str, **options: Any) -> Answer:
        """Ask the interface."""
        return self.ask(f"api/v1/{path}", **options)


def give_token(database: Path, name: str, role: Role, *, expires_s: float = 3600.0) -> str:
    secret = f"efh_{name}"
    now = time.time()
    record = AccessRecord(
        name=name, digest=digest_of(secret), role=role, created_unix_s=now, expires_unix_s=now + expires_s
    )
    with closing(SqlAccess(database)) as access:
        access.add(record)
    return secret


@pytest.fixture
def site(make_bench: Callable[..., Bench], tmp_path: Path) -> Iterator[Site]:
    """A task with four rounds and two sets, one of them played by two devices, one message of a stranger refused."""
    bench = make_bench(rounds=4, evaluation=evaluation_sets(tmp_path), metrics=("forgetting", "stream-accuracy"))
    bench.settle()
    bench.play(bench.device("kitchen"), bench.device("attic"))
    bench.settle()
    tokens = {role: give_token(bench.folders.database, role, role) for role in ("viewer", "operator", "admin")}
    registry = tmp_path / "devices.toml"
    registry.write_text(f'[devices]\nshed = "{bench.service_key.public.raw.hex()}"\n')
    config = Config(
        service=ServiceSettings(fleet=FLEET, folder=str(bench.folders.root), key=str(tmp_path / "service.key")),
        devices=DevicesSettings(registry=str(registry)),
        task=(bench.settings,),
        http=HttpSettings(port=0, max_body_bytes=4096),
    )
    pulse = Pulse(beat_s=time.monotonic() + 3600, is_link_up=True)  # the bench's pump turns when the test says so
    with WebServer(config, bench.folders, pulse=pulse, authority=None) as server:
        yield Site(bench, server.url, pulse, tokens)
