"""A real PostgreSQL on this machine, for tests and the kill matrix: in a temporary folder, on a Unix socket.

Law: nothing of a server that the system may run is touched.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psycopg

from protocol.errors import ConfigError, EngineError

__all__ = ["USER", "DatabaseServer"]

_START_S: Final = 60.0
USER: Final = "edgefold"


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs.

    Raises:
        ConfigError: it is not installed (the user's fault).
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise ConfigError("a PostgreSQL of one's own needs its server: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).resolve().parent


class DatabaseServer:
    """A server that can be killed and started again; ``close`` removes it."""

    def __init__(self) -> None:
        """Make a cluster and start it."""
        self.folder = Path(tempfile.mkdtemp(prefix="edgefold-pg-", dir="/tmp"))
        self._run_as: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._run_as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._bin, self._data = binaries(), self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._n_made = 0
        options = ["--no-sync", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C"]
        self._call(str(self._bin / "initdb"), "-D", str(self._data), *options)
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            EngineError: it does not.
        """
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-k", str(self.folder)]
        command += ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=40"]
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:  # the killed one's children still end
                with (self.folder / "log").open("ab") as log:
                    self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._run_as)
            try:
                psycopg.connect(host=str(self.folder), user=USER, dbname="postgres").close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise EngineError(f"PostgreSQL did not answer within {_START_S:.0f} s; see {self.folder / 'log'}")

    def kill(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it as a power cut does for whoever is connected: by default no checkpoint, recovery at the start."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_START_S)
            self._process = None

    def url(self, *, template: str | None = None) -> str:
        """Make a database, empty or a copy of ``template``, and return its URL."""
        self._n_made += 1
        name = f"d{self._n_made}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template0'}")
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def execute(self, command: str) -> None:
        """Run one command of an administrator."""
        with psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(command)

    def close(self) -> None:
        """End the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _call(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._run_as)
