"""A real PostgreSQL for tests: one server of the session in a temporary folder, on a Unix socket, as no root.

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
from sqlalchemy import make_url

from aggregator.adapters.engines import PostgresDatabase

_START_S: Final = 60.0
_USER: Final = "edgefold"


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs.

    Raises:
        FileNotFoundError: it is not installed; ``.ci/run`` does that.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise FileNotFoundError("these tests need PostgreSQL's server: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).resolve().parent


class PostgresServer:
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
        options = ["--no-sync", "--auth=trust", f"--username={_USER}", "--encoding=UTF8", "--locale=C"]
        self._call(str(self._bin / "initdb"), "-D", str(self._data), *options)
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = (self.folder / "log").open("ab")
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-k", str(self.folder)]
        command += ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=40"]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._run_as)
        log.close()
        deadline = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(host=str(self.folder), user=_USER, dbname="postgres").close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """End it as a power cut does for whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # immediate shutdown: no checkpoint, recovery at the start
            self._process.wait(_START_S)
            self._process = None

    def database(self, *, template: PostgresDatabase | None = None) -> PostgresDatabase:
        """Return a new database, empty or a copy of ``template``."""
        self._n_made += 1
        name = f"d{self._n_made}"
        of = "template0" if template is None else template.url.database
        self.execute(f"CREATE DATABASE {name} TEMPLATE {of}")
        return PostgresDatabase(url=make_url(f"postgresql+psycopg://{_USER}@/{name}?host={self.folder}"))

    def disconnect(self, database: PostgresDatabase) -> None:
        """End all connections to one database."""
        with psycopg.connect(host=str(self.folder), user=_USER, dbname="postgres", autocommit=True) as connection:
            of = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(of, [database.url.database])

    def execute(self, command: str) -> None:
        """Run one command of an administrator."""
        with psycopg.connect(host=str(self.folder), user=_USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(command)  # type: ignore[call-overload]  # a test's own text

    def close(self) -> None:
        """End the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _call(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._run_as)
