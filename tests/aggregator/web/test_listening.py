"""A server's certificate is exchanged while it runs."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import uvicorn

from aggregator.adapters.authority import make_authority
from aggregator.web.listening import ServerThread, listen, load_certificate, server_context

if TYPE_CHECKING:
    from pathlib import Path

WAIT_S = 20.0


async def answer(_scope: Any, _receive: Any, _send: Any) -> None:
    """Say nothing: the handshake is what is looked at."""


def test_a_certificate_that_is_made_anew_is_taken_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, fleet="f", host="127.0.0.1", now=datetime.now(UTC))
    context = server_context(authority)
    listener = listen("127.0.0.1", 0, table="http")
    here = listener.getsockname()
    config = uvicorn.Config(
        answer, log_config=None, lifespan="off", ssl_context_factory=lambda _config, _default: context
    )
    thread = ServerThread(
        uvicorn.Server(config), listener, name="t", reload=lambda: load_certificate(context, authority), reload_s=0.02
    )
    thread.start()
    try:
        first = ssl.get_server_certificate(here, timeout=WAIT_S)
        assert authority.renew_own("other.example", now=datetime.now(UTC))
        end_s = time.monotonic() + WAIT_S
        while (second := ssl.get_server_certificate(here, timeout=WAIT_S)) == first:
            assert time.monotonic() < end_s, "the new certificate was not taken up"
            time.sleep(0.02)
        authority.file("server.pem").write_text("no certificate")
        time.sleep(0.2)  # several tries
        assert ssl.get_server_certificate(here, timeout=WAIT_S) == second
    finally:
        thread.stop()
        listener.close()
