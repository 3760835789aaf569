"""A real headless Chromium, spoken to by its DevTools protocol: what the tests of pages share.

https://chromedevtools.github.io/devtools-protocol/ . The tests fail, and say why, where there is no Chromium: a page
that was not looked at is not tested.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from websockets.sync.client import connect

if TYPE_CHECKING:
    from types import TracebackType

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_DEADLINE_S = 90.0
ANSWER_DEADLINE_S = 60.0


class Browser:
    """One window; a context manager. ``errors`` are what the page's console and the browser complained about."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self._size, self._dark = (width, height), dark
        self._numbers = itertools.count(1)
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        program = next((found for name in NAMES if (found := shutil.which(name)) is not None), None)
        assert program is not None, f"the tests of the page need a browser: install one of {', '.join(NAMES)}"
        self._stack = contextlib.ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "--disable-background-networking"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([program, *flags, "about:blank"], **quiet)
        self._stack.callback(self._end)
        try:
            self._attach(folder / "DevToolsActivePort")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _at: TracebackType | None) -> None:
        self._stack.close()

    def open(self, url: str) -> None:
        """Go to ``url``."""
        self._send("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return what an expression is on the page; a promise is awaited."""
        said = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, condition: str, *, deadline_s: float = 60.0) -> None:
        """Wait until an expression holds on the page."""
        end_s = time.monotonic() + deadline_s
        while not self.run(f"Boolean({condition})"):
            text = self.run("document.body.innerText")
            assert time.monotonic() < end_s, f"never: {condition}; the page says: {text}; errors: {self.errors}"
            time.sleep(0.1)

    def picture(self, path: Path, *, whole: bool = True) -> bytes:
        """Write and return a PNG of the page."""
        said = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        data = base64.b64decode(said["data"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return data

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Take on a size and a colour scheme."""
        self._send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])

    def _attach(self, port_file: Path) -> None:
        end_s = time.monotonic() + START_DEADLINE_S
        while not (port_file.exists() and len(port_file.read_text().splitlines()) > 1):
            assert self._process.poll() is None, "Chromium ended at its start"
            assert time.monotonic() < end_s, "Chromium did not start"
            time.sleep(0.05)
        port, path = port_file.read_text().splitlines()[:2]
        self._socket = self._stack.enter_context(
            connect(f"ws://127.0.0.1:{port}{path}", max_size=1 << 26, open_timeout=START_DEADLINE_S, proxy=None)
        )
        self._session: str | None = None
        targets = self._send("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self._send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._send(f"{domain}.enable")
        self.look(width=self._size[0], height=self._size[1], dark=self._dark)

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            said = json.loads(self._socket.recv(timeout=ANSWER_DEADLINE_S))
            if said.get("id") == number:
                assert "error" not in said, said["error"]
                result: dict[str, Any] = said["result"]
                return result
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        match said.get("method"):
            case "Runtime.exceptionThrown":
                details = said["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded" if said["params"]["entry"]["level"] == "error":
                self.errors.append(said["params"]["entry"]["text"])

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
