"""The fold engine ``ray``: chunks are added by a Ray cluster, through a driver process of its own (``ray_driver``).

Laws: a driver that fails is ended and not tried again for ``REST_S``, and meanwhile the service folds by itself: a
cluster that is gone costs a fold a while now and then and never a round.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aggregator.chunk_job import unpack_sum
from aggregator.fold_engine import FoldEngineError
from aggregator.fold_secret import FoldSecret
from aggregator.fold_wire import END, JOB, MAX_SAID_BYTES, raise_unless_sum, read_frame, write_frame
from aggregator.fold_worker import place_text
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.blob_settings import ObjectPlace
    from aggregator.chunk_job import ChunkJob
    from aggregator.core.partial_sums import ChunkSum

__all__ = ["DEADLINE_S", "REST_S", "START_S", "RayFoldEngine"]

DEADLINE_S: Final = 310.0  # of one answer: a little more than the driver's own
START_S: Final = 60.0  # of the driver: 3 s idle, 20 s on a busy machine
_CONNECT_S: Final = 3.0
REST_S: Final = 60.0
_STOP_S: Final = 5.0


class RayFoldEngine:
    """Implements ``aggregator.fold_engine.FoldEngine``; the driver starts with the first fold and stays."""

    def __init__(self, place: Path | ObjectPlace, *, address: str, secret: str) -> None:
        """Use the cluster at ``address``; the secret's file is made if it is missing.

        Raises:
            ConfigError: Ray is not installed or would let anybody in, or the secret is no good (the user's fault).
        """
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("fold.engine = \"ray\" needs Ray; run: pip install 'edgefold[scale]'")
        if os.environ.get("RAY_AUTH_MODE") != "token":
            raise ConfigError(
                'fold.engine = "ray": whoever reaches a Ray cluster runs code on it, unless it asks for a token: set '
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here and on every node (docs/scale.md)"
            )
        if not re.fullmatch(r"[^/]+:\d{1,5}", address):
            raise ConfigError(f"fold.address {address!r}: expected HOST:PORT, as ray start printed it")
        FoldSecret.load(Path(secret), make=True)
        self._address = address
        self._command = [sys.executable, "-m", "aggregator.ray_driver", place_text(place), address, secret]
        self._driver: subprocess.Popen[bytes] | None = None
        self._rests_until_s = 0.0

    @property
    def pid(self) -> int | None:
        """The driver's process id."""
        return None if self._driver is None else self._driver.pid

    def takes(self, *, n_updates: int, n_values: int) -> bool:  # noqa: ARG002 - the port's
        """Return True: the operator asked for it."""
        return True

    def sums(self, jobs: Sequence[ChunkJob]) -> Iterator[ChunkSum]:
        """Yield the jobs' sums in their order; errors as in the port."""
        if time.monotonic() < self._rests_until_s:
            raise FoldEngineError("the cluster failed less than a minute ago")
        is_done = False
        try:
            yield from self._asked(jobs)
            is_done = True
        except (OSError, EOFError) as error:
            raise FoldEngineError(f"the way to the Ray cluster ended: {error}") from error
        finally:
            if not is_done:  # what it still answers belongs to no fold
                self._rests_until_s = time.monotonic() + REST_S
                self.close()

    def close(self) -> None:
        """End the driver; the cluster is the operator's."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        driver.kill()
        driver.wait(_STOP_S)
        for pipe in (driver.stdin, driver.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was on its way to the dead

    def _asked(self, jobs: Sequence[ChunkJob]) -> Iterator[ChunkSum]:
        if self._driver is None:
            self._start()
        driver = self._driver
        if driver is None or driver.stdin is None or driver.stdout is None:
            raise EOFError("no driver")
        for job in jobs:
            write_frame(driver.stdin, JOB, job.pack())
        write_frame(driver.stdin, END)
        for job in jobs:
            kind, data = self._answer(max_bytes=16 + 8 * job.n_values, deadline_s=DEADLINE_S)
            raise_unless_sum(kind, data)
            yield unpack_sum(data, n_values=job.n_values)

    def _start(self) -> None:
        # Ray itself waits for minutes for a head that is not there.
        host, _, port = self._address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        self._driver = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # Ray's own lines; what concerns us comes as an answer
            env=environment,
        )
        kind, data = self._answer(max_bytes=0, deadline_s=START_S)
        if kind != END:
            raise_unless_sum(kind, data)

    def _answer(self, *, max_bytes: int, deadline_s: float) -> tuple[bytes, bytes]:
        driver = self._driver
        if driver is None or driver.stdout is None:
            raise EOFError("no driver")
        overrun = threading.Timer(deadline_s, driver.kill)
        overrun.start()
        try:
            return read_frame(driver.stdout, max_bytes=max(max_bytes, MAX_SAID_BYTES))
        finally:
            overrun.cancel()
