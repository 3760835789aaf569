"""``make test-board``: the image for a Raspberry Pi starts on QEMU's ``raspi3b``, as far as its first-boot enrolment.

The board's own kernel, device tree, first stage and command line, out of the image's boot partition, and the SD card's
controller; the firmware's stage before them is not emulated. The token is for nobody: that the agent asks for the fleet
is the end. QEMU 7.2 takes the arming of the watchdog for its going off, so its module is left out here.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploy.flash import image_plan
from deploy.flash.programs import require_programs, run_program
from deploy.flash.settings import make_setup
from deploy.flash.targets import rpi
from deploy.flash.trial_service import no_token
from deploy.flash.workshop import carry_out
from protocol.errors import EdgefoldError, EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_PROGRAMS: Final = ("qemu-system-aarch64", "mcopy")
_TREE: Final = "bcm2837-rpi-3-b.dtb"
_BOOT_S: Final = 900.0  # 24 s on a quiet machine
_MAX_SERIAL_BYTES: Final = 1 << 20
# What systemd says on the serial line, in this order.
_SEEN: Final = (b"Hostname set to <", b"Mounted", b"enrolment at the first boot")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial; 0 if all went well."""
    parser = argparse.ArgumentParser(description="Start the image for a Raspberry Pi on QEMU's raspi3b.")
    parser.add_argument("--folder", type=Path, default=Path("out/test-board"))
    parser.add_argument("--image", type=Path, help="an image for rpi; one is built without it")
    options = parser.parse_args(arguments)
    try:
        programs = require_programs((*image_plan.PROGRAMS, *_PROGRAMS))
        folder = options.folder.resolve()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        card = folder / "card.img"
        if options.image is None:
            setup = make_setup(device="trial-pi", token=no_token(), data_mb=64)
            (folder / "work").mkdir()
            carry_out(image_plan.image_steps(rpi.TARGET, setup, work=folder / "work", out=card, programs=programs))
        else:
            shutil.copyfile(options.image, card)
        _start(card, folder, programs)
    except EdgefoldError as error:
        print(f"test-board: {error}", file=sys.stderr)  # noqa: T201 - a command that prints
        return 1
    return 0


def _start(card: Path, folder: Path, programs: dict[str, str]) -> None:
    for name in ("vmlinuz", "initrd.img", "cmdline.txt", _TREE):
        run_program((programs["mcopy"], "-n", "-i", f"{card}@@1M", f"::{name}", str(folder / name)))
    size = card.stat().st_size
    with card.open("r+b") as file:
        file.truncate(1 << (size - 1).bit_length())  # QEMU: a card's size is a power of two
    serial = folder / "serial.txt"
    line = (folder / "cmdline.txt").read_text("utf-8").strip() + " module_blacklist=bcm2835_wdt"
    command = (
        *(programs["qemu-system-aarch64"], "-M", "raspi3b", "-display", "none", "-no-reboot"),
        *("-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img"), "-dtb", str(folder / _TREE)),
        *("-append", line, "-drive", f"file={card},format=raw,if=sd"),
        *("-serial", "null", "-serial", f"file:{serial}"),  # the second is the one on the board's pins
    )
    started_s = time.monotonic()
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for mark in _SEEN:
            _wait_for(mark, serial, machine, until_s=started_s + _BOOT_S)
            print(f"{time.monotonic() - started_s:7.1f} s  {mark.decode()}", flush=True)  # noqa: T201 - it prints
    finally:
        machine.kill()
        machine.wait()


def _wait_for(mark: bytes, serial: Path, machine: subprocess.Popen[bytes], *, until_s: float) -> None:
    while time.monotonic() < until_s:
        if serial.exists():
            with serial.open("rb") as file:
                if mark in file.read(_MAX_SERIAL_BYTES):
                    return
        if machine.poll() is not None:
            raise EngineError(f"the machine stopped by itself; see {serial}")
        time.sleep(0.5)
    raise EngineError(f"no {mark.decode()!r} within {_BOOT_S:.0f} s; see {serial}")


if __name__ == "__main__":
    sys.exit(main())
