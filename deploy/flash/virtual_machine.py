"""An arm64 machine of QEMU that starts a finished image: its own kernel and first stage, a disk, a user-mode network.

The machine reaches this one's loopback ports as 10.0.2.2; nobody reaches the machine, but by ssh where that is asked
for. ``cut_power`` ends it as a pulled plug would: nothing is told to it, and what it had not flushed is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

from deploy.flash.programs import require_programs, run_program
from protocol.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["HOST_ADDRESS", "PROGRAMS", "VirtualMachine"]

HOST_ADDRESS: Final = "10.0.2.2"
PROGRAMS: Final = ("qemu-system-aarch64", "mcopy")
_MACHINE: Final = ("-M", "virt", "-cpu", "cortex-a72", "-accel", "tcg,thread=multi", "-nographic", "-no-reboot")
_MAX_READ_BYTES: Final = 1 << 20


class VirtualMachine:
    """One machine; it may be started again after its power was cut."""

    def __init__(
        self,
        image: Path,
        folder: Path,
        *,
        command_line: str,
        processors: int = 2,
        memory_mb: int = 1024,
        ssh_port: int | None = None,
    ) -> None:
        """Take kernel and first stage out of ``image``, whose first partition begins at 1 MiB.

        ``ssh_port`` of this machine's loopback, if there is one, leads to the machine's SSH server.

        Raises:
            ConfigError: a program is missing.
            EngineError: no such image.
        """
        self._programs, self._image, self.serial = require_programs(PROGRAMS), image, folder / "serial.txt"
        for name in ("vmlinuz", "initrd.img"):
            run_program((self._programs["mcopy"], "-n", "-i", f"{image}@@1M", f"::{name}", str(folder / name)))
        door = "" if ssh_port is None else f",hostfwd=tcp:127.0.0.1:{ssh_port}-:22"
        self._options = (
            *_MACHINE,
            *("-smp", str(processors), "-m", str(memory_mb)),
            *("-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img"), "-append", command_line),
            *("-drive", f"file={image},format=raw,if=virtio"),
            *("-netdev", f"user,id=wire{door}", "-device", "virtio-net-pci,netdev=wire,romfile="),
            *("-device", "virtio-rng-pci"),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._read_to = 0

    def start(self) -> None:
        """Switch it on."""
        self._read_to = self.serial.stat().st_size if self.serial.exists() else 0
        with self.serial.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs["qemu-system-aarch64"], *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ},
                start_new_session=True,
            )

    def cut_power(self) -> None:
        """End it at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Yield what the agent logged to the console since the last call; other lines are left out.

        Raises:
            EngineError: the machine ended by itself.
        """
        with self.serial.open("rb") as log:
            log.seek(self._read_to)
            data = log.read(_MAX_READ_BYTES)
        whole, _, _ = data.rpartition(b"\n")
        self._read_to += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            start = line.find(b'{"at":')
            with contextlib.suppress(ValueError):
                if start >= 0:
                    yield json.loads(line[start:])
        if self._process is not None and self._process.poll() is not None and not whole:
            raise EngineError(f"the machine stopped by itself; see {self.serial}")

    def wait_for(self, name: str, *, deadline_s: float) -> dict[str, Any]:
        """Return the next event of this name.

        Raises:
            EngineError: it did not come in time.
        """
        until_s = time.monotonic() + deadline_s
        while time.monotonic() < until_s:
            for event in self.new_events():
                if event.get("event") == name:
                    return event
            time.sleep(0.2)
        raise EngineError(f"the machine logged no {name} within {deadline_s:.0f} s; see {self.serial}")
