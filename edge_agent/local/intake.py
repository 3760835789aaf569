"""Where examples and labels come in: from HTTP, from files, from a command; one way into the store for all of them.

    POST /examples  {"examples": [row, ...]} or one row        -> {"ids": [...]}
    POST /labels    {"id": 7, "label": 1}                      -> {"id": 7}

Laws: whoever writes shows the token in ``state/local/token`` (mode 0600), so that another user of the machine cannot
teach this device; a labelled example is first predicted and then kept (test, then train), and a store that fails keeps
nothing of a request.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from edge_agent.adapters.example_store import ExampleStore
from edge_agent.local.endpoint import local_folder
from edge_agent.local.loopback_http import Refusal
from host.durable import read_bytes, write_bytes
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.local.loopback_http import Asked, Routes
    from edge_agent.local.scorekeeper import Scorekeeper
    from edge_agent.store_settings import StoreSettings

__all__ = ["Intake", "intake_routes", "read_token", "rows_of"]

_MAX_ROWS: Final = 1000
_MAX_TOKEN_BYTES: Final = 256


class Intake:
    """The one way into the store; may be used from any thread."""

    def __init__(self, folder: Path, settings: StoreSettings, scorekeeper: Scorekeeper | None) -> None:
        """Use the store in ``folder``; ``scorekeeper`` tests each labelled example before it is kept."""
        self._folder, self._settings, self._scorekeeper = folder, settings, scorekeeper
        self._lock = threading.Lock()

    def add(self, rows: list[dict[str, Any]], source: str) -> list[int]:
        """Test, keep, and make room; return the ids."""
        with self._lock:
            store = ExampleStore(self._folder)
            try:
                if self._scorekeeper is not None:
                    self._scorekeeper.test(rows, store)
                ids = store.add(rows, source=source, exam_every=self._settings.exam_every)
                self._retain(store)
            finally:
                store.close()
            return ids

    def label(self, example_id: int, label: Any) -> None:  # noqa: ANN401 - any JSON value
        """Give an example its label; test it first if it had none."""
        with self._lock:
            store = ExampleStore(self._folder)
            try:
                before = store.label(example_id, label, exam_every=self._settings.exam_every)
                if self._scorekeeper is not None and not {"label", "labels"} & before.keys():
                    self._scorekeeper.test([{**before, "label": label}], store)
            finally:
                store.close()

    def label_of(self, body: Any) -> int:  # noqa: ANN401 - whatever was sent
        """Give the example that a request names the label that it says; return the example's number.

        Raises:
            ConfigError: no number, no label, or no such example (the sender's fault).
        """
        known = body if isinstance(body, dict) else {}
        example_id, label = known.get("id"), known.get("label")
        if type(example_id) is not int or not 0 < example_id < 2**62:
            raise ConfigError("expected an example's number under 'id'")
        if type(label) is not int and not (isinstance(label, list) and all(type(one) is int for one in label)):
            raise ConfigError("expected an integer, or a list of them, under 'label'")
        self.label(example_id, label)
        return example_id

    def tidy(self, store: ExampleStore) -> None:
        """Make room in ``store``, and hold the exam if it is time."""
        with self._lock:
            self._retain(store)
            if self._scorekeeper is not None:
                self._scorekeeper.examine(store)

    def _retain(self, store: ExampleStore) -> None:
        settings = self._settings
        store.retain(
            max_age_days=settings.max_age_days,
            max_examples=settings.max_examples,
            max_bytes=settings.max_mb * 2**20,
        )


def intake_routes(intake: Intake, token: str) -> Routes:
    """Return the routes by which programs on this machine teach it."""

    def examples(asked: Asked) -> dict[str, Any]:
        _check(asked, token)
        return {"ids": intake.add(rows_of(asked.body), "http")}

    def labels(asked: Asked) -> dict[str, Any]:
        _check(asked, token)
        return {"id": intake.label_of(asked.body)}

    return {("POST", "/examples"): examples, ("POST", "/labels"): labels}


def rows_of(body: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - whatever was sent
    """Return the examples of a request.

    Raises:
        ConfigError: there are none, too many, or one is no object (the sender's fault).
    """
    rows = body.get("examples", [body]) if isinstance(body, dict) else None
    if not isinstance(rows, list) or not 0 < len(rows) <= _MAX_ROWS:
        raise ConfigError(f"expected 1 to {_MAX_ROWS} examples")
    if not all(isinstance(row, dict) and row for row in rows):
        raise ConfigError("an example is an object, such as {'text': ..., 'label': ...}")
    return rows


def read_token(folder: Path, *, make: bool = False) -> str | None:
    """Return the token for writing, made if asked for; None if there is none.

    Raises:
        StorageError: it cannot be read or written.
    """
    path = (local_folder(folder) if make else folder / "local") / "token"
    try:
        return read_bytes(path, max_bytes=_MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        if not make:
            return None
    token = secrets.token_urlsafe(32)
    write_bytes(path, token.encode() + b"\n", mode=0o600)
    return token


def _check(asked: Asked, token: str) -> None:
    if asked.bearer is None or not hmac.compare_digest(asked.bearer.encode(), token.encode()):
        raise Refusal(HTTPStatus.UNAUTHORIZED, "this needs 'Authorization: Bearer' with the token in state/local/token")
