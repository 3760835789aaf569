"""A Ray cluster of several nodes on this machine, started by the commands that docs/scale.md shows.

Laws: whoever speaks to it must know its token, which is new for each cluster, since Ray listens on every interface
whatever address it is given; each node is a session of processes of its own, which are ended as a group, so that
no other Ray on this machine is touched (``ray stop`` ends all that it finds).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploy.local import LOOPBACK, free_ports
from host.durable import make_folder
from protocol.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["RayCluster"]

_START_S: Final = 120.0
_STOP_S: Final = 3.0
_STORE_BYTES: Final = 256 << 20  # of each node's shared memory


class RayCluster:
    """A head and ``n_nodes - 1`` more nodes, a CPU each; a context manager.

    Attributes:
        access: variables that a program must have to speak to it.
    """

    def __init__(self, folder: Path, *, n_nodes: int = 2, environment: Mapping[str, str] | None = None) -> None:
        """Prepare; ``environment`` has what nodes need besides ours, such as object storage's keys.

        Raises:
            ConfigError: Ray is not installed (the user's fault).
        """
        self._program = Path(sys.executable).with_name("ray")
        if not self._program.exists():
            raise ConfigError("a Ray cluster needs Ray; run: pip install 'edgefold[scale]'")
        self._folder, self._n_nodes = make_folder(folder), n_nodes
        (self._port,) = free_ports(1)
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **self.access, **(environment or {})}
        self._nodes: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        """Where the head answers."""
        return f"{LOOPBACK}:{self._port}"

    def __enter__(self) -> Self:
        """Start all nodes and wait for them."""
        try:
            self._start("--head", f"--port={self._port}", "--include-dashboard=false", f"--temp-dir={self._temp()}")
            self._await_head()
            for _ in range(self._n_nodes - 1):
                self.add_node()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all nodes."""
        for node in reversed(self._nodes):
            self._end(node, signal.SIGTERM)
        self._nodes.clear()
        shutil.rmtree(self._temp(), ignore_errors=True)

    @property
    def pids(self) -> list[int]:
        """The nodes' first processes."""
        return [one.pid for one in self._nodes]

    def add_node(self) -> None:
        """Start one more node."""
        self._start(f"--address={self.address}")

    def kill_node(self) -> None:
        """End the newest node that is not the head, all of its processes by SIGKILL."""
        self._end(self._nodes.pop(), signal.SIGKILL)

    def _temp(self) -> Path:
        # Unix sockets have short names: not below a test's long folder.
        return Path("/tmp") / f"edgefold-ray-{os.getpid()}-{self._port}"  # noqa: S108 - with our own id

    def _start(self, *options: str) -> None:
        # Each has an address of its own, as machines have: a driver belongs to the node of its address.
        address = f"127.0.0.{1 + len(self._nodes)}"
        command = [str(self._program), "start", *options, "--block", f"--node-ip-address={address}", "--num-cpus=1"]
        command += [f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats"]
        with (self._folder / f"node-{len(self._nodes)}.log").open("ab") as log:
            self._nodes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,
                )
            )

    def _await_head(self) -> None:
        deadline = time.monotonic() + _START_S
        while self._nodes[0].poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self._port), timeout=1.0):
                return
            time.sleep(0.1)
        raise EngineError(f"Ray's head did not answer within {_START_S:.0f} s; see {self._folder}")

    def _end(self, node: subprocess.Popen[bytes], how: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):  # what outlived the node's first process
            os.killpg(node.pid, signal.SIGKILL)
        node.wait(_STOP_S)
