"""``make test-vendor``: the agent is put into images as vendors make them and onto a running system with systemd.

Workflow: a service as in ``trial`` -> two images as vendors make them (``vendor_like``), one packed -> ``edgefold flash
--base-image``, a batch of two and a single one -> each is started in QEMU and must enrol and connect -> the image that
nobody touched is started, and the agent installed by ssh: a unit of systemd, the doctor, the same again, a broken
release and the way back. Prints one line a step with its time.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy.flash import customise, image_plan, remote, vendor_like, virtual_machine
from deploy.flash.ext4_files import Ext4Files
from deploy.flash.partitions import grow_last, read_partitions
from deploy.flash.programs import require_programs, run_program
from deploy.flash.settings import make_setup
from deploy.flash.ssh_install import Address, Remote, install
from deploy.flash.targets import qemu_virt
from deploy.flash.trial_service import edgefold, make_tokens, no_token, start_service
from deploy.flash.virtual_machine import VirtualMachine
from deploy.flash.wheelhouse import Release, make_release
from deploy.local import LOOPBACK, free_ports
from protocol.errors import EdgefoldError, EngineError, TransportError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_BOOT_S: Final = 600.0  # a minute on a quiet machine
_SSH_S: Final = 300.0
_ROOM_BYTES: Final = 1 << 30
_PYTHON: Final = "3.11"  # Debian 12's
_FACTS: Final = """\
systemctl is-active edgefold-agent.service
systemctl is-enabled edgefold-agent.service
stat -c %U:%a /var/lib/edgefold /var/lib/edgefold/agent.toml
ls /var/lib/edgefold/token 2>/dev/null || echo no token
uname -n
"""


class VendorTrial:
    """One run in one folder."""

    def __init__(self, folder: Path) -> None:
        """Begin; the folder is emptied."""
        self.folder, self._started_s = folder.resolve(), time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        keygen = require_programs(["ssh-keygen"])["ssh-keygen"]
        run_program((keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "own")))
        self.wheels = self.folder / "wheels"

    def say(self, text: str) -> None:
        """Tell what happened, and when."""
        print(f"{time.monotonic() - self._started_s:7.1f} s  {text}", flush=True)  # noqa: T201 - a command that prints

    def run(self) -> None:
        """Do all of it.

        Raises:
            EdgefoldError: something did not happen; the line says what.
        """
        work = self.folder / "vendor"
        work.mkdir()
        dos, gpt = vendor_like.make_vendor_like(work, ssh_keys=(self.folder / "own.pub").read_text("utf-8"))
        packed = self.folder / "vendor.img.xz"
        with dos.open("rb") as source, lzma.open(packed, "wb", preset=0) as file:
            shutil.copyfileobj(source, file, 1 << 20)
        self.say("two images as vendors make them, one of them packed")
        edgefold("flash", "wheelhouse", "--platform=linux-aarch64", f"--python={_PYTHON}", f"--out={self.wheels}")
        service, config = start_service(self.folder)
        try:
            batch, single = self._customise(config, packed, gpt)
            self._boot(batch, "field-02", is_updated=True)
            self._boot(single, "orin")
            self._install(dos, make_tokens(config, 1)[0])
        finally:
            service.stop()
        listed = json.loads(edgefold("devices", "list", "--config", str(config), "--json"))["devices"]
        names = sorted(one["device"] for one in listed)
        if names != ["by-ssh", "field-02", "orin"]:
            raise EngineError(f"the service let in {names}")
        self.say(f"the service let in {', '.join(names)}, each once")

    def _customise(self, config: Path, packed: Path, gpt: Path) -> tuple[Path, Path]:
        """Return an image of a batch made from the packed one, and one made from the one with a GPT."""
        out, single = self.folder / "batch", self.folder / "orin.img"
        common = ("--service", str(config), "--wheelhouse", str(self.wheels), "--work", str(self.folder))
        edgefold(
            *("flash", "--base-image", str(packed), "--count", "2", "--device", "field-{:02}", "--out", str(out)),
            *common,
        )
        self.say("a batch of two from the packed image, its system grown")
        edgefold("flash", "--base-image", str(gpt), "--device", "orin", "--out", str(single), *common)
        self.say("one from the image with a GPT")
        return out / "field-02.img", single

    def _machine(self, image: Path) -> tuple[VirtualMachine, Remote]:
        (port,) = free_ports(1)
        folder = self.folder / f"machine-{port}"
        folder.mkdir()
        options = (f"-i{self.folder}/own", "-oUserKnownHostsFile=/dev/null", "-oStrictHostKeyChecking=no")
        line = qemu_virt.TARGET.command_line
        machine = VirtualMachine(image, folder, command_line=line, ssh_port=port)
        quiet = (*options, "-oLogLevel=ERROR", "-oConnectTimeout=20")
        return machine, Remote(Address(host=LOOPBACK, user="root", port=port), options=quiet)

    def _boot(self, image: Path, device: str, *, is_updated: bool = False) -> None:
        machine, shell = self._machine(image)
        machine.start()
        try:
            machine.wait_for("link-up", deadline_s=_BOOT_S)
            self.say(f"{device}: started, enrolled and connected over mutual TLS")
            told = _reached(shell).run(_FACTS, is_checked=False).split()
            expected = ["active", "enabled", "edgefold:700", "edgefold:600", "no", "token", device]
            if told != expected:
                raise EngineError(f"{device} says {told}, expected {expected}")
            if is_updated:
                self._update(machine, shell)
        finally:
            machine.cut_power()

    def _update(self, machine: VirtualMachine, shell: Remote) -> None:
        """Install by ssh over what the image brought: its state is found, and nobody enrols again."""
        told: list[str] = []
        setup = make_setup(device="other", token=no_token())
        install(shell, setup, release_for=self._other_release, watch=told.append)
        machine.wait_for("link-up", deadline_s=_BOOT_S)
        if "enrol" in told:
            raise EngineError("an installation by ssh did not find the state of the image's agent")
        self.say("another release by ssh onto that very machine: it keeps its identity and connects again")

    def _install(self, image: Path, token: str) -> None:
        """Install onto a vendor's system that runs: a hardened unit of systemd, and back from a broken release."""
        _grow(image)
        machine, shell = self._machine(image)
        machine.start()
        try:
            setup, told = make_setup(device="by-ssh", token=token), list[str]()
            _reached(shell)
            self.say("a vendor's system without an agent runs")
            done = install(shell, setup, release_for=self._release, watch=told.append)
            machine.wait_for("link-up", deadline_s=_BOOT_S)
            self.say(f"installed by ssh as a {done.place.kind} service; the doctor: {_summary(done.findings)}")
            self._expect_active(shell, done.release)
            told.clear()
            install(shell, setup, release_for=self._release, watch=told.append)
            if {"enrol", "copy the agent"} & set(told):
                raise EngineError(f"the same again did {told}")
            self.say("the same again copies nothing and enrols nobody")
            try:
                install(shell, setup, release_for=self._broken_release)
            except EngineError as error:
                if f"{done.release} runs again" not in str(error):
                    raise
            else:
                raise EngineError("a broken release was taken for a good one")
            self._expect_active(shell, done.release)
            self.say("a broken release: the doctor blamed it, and the one before runs again")
            security = shell.run("systemd-analyze --no-pager security edgefold-agent.service | tail -n 1").strip()
            self.say(f"systemd-analyze security: {security.lstrip('→ ')}")
        finally:
            machine.cut_power()

    def _expect_active(self, shell: Remote, release: str) -> None:
        said = shell.run(
            "systemctl is-active edgefold-agent.service; readlink /opt/edgefold/current; "
            "ps -o user= -p $(systemctl show -P MainPID edgefold-agent.service); "
            "stat -c %a /etc/systemd/system/edgefold-agent.service /opt/edgefold/state/agent.toml",
            is_checked=False,
        ).split()
        if said != ["active", f"releases/{release}", "edgefold", "644", "600"]:
            raise EngineError(f"expected an active unit of {release}, found {said}")

    def _release(self, probe: remote.Probe) -> Release:
        return self._made(probe, remote.program_text(probe.interpreter))

    def _other_release(self, probe: remote.Probe) -> Release:
        return self._made(probe, remote.program_text(probe.interpreter) + "# another\n")

    def _broken_release(self, probe: remote.Probe) -> Release:
        return self._made(probe, "#!/bin/sh\nexit 9\n")

    def _made(self, probe: remote.Probe, program: str) -> Release:
        return make_release(self.wheels, self.folder, machine=probe, program=program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial; 0 if all went well."""
    parser = argparse.ArgumentParser(description="Put the agent into vendors' images and onto a running system.")
    parser.add_argument("--folder", type=Path, default=Path("out/test-vendor"))
    options = parser.parse_args(arguments)
    try:
        programs = (*image_plan.PROGRAMS, *customise.PROGRAMS, *vendor_like.PROGRAMS, *virtual_machine.PROGRAMS)
        require_programs((*programs, "mosquitto", "ssh"))
        VendorTrial(options.folder).run()
    except EdgefoldError as error:
        print(f"test-vendor: {error}", file=sys.stderr)  # noqa: T201 - a command that prints
        return 1
    return 0


def _grow(image: Path) -> None:
    """Give the system room, as a vendor's does itself at its first boot."""
    table = read_partitions(image)
    before = table.partitions[-1]
    grown = grow_last(image, table, before, size_bytes=before.size_bytes + _ROOM_BYTES)
    Ext4Files(image, grown.start_bytes).resize(grown.size_bytes)


def _reached(shell: Remote) -> Remote:
    """Return ``shell`` as soon as the machine answers."""
    until_s = time.monotonic() + _SSH_S
    while True:
        try:
            shell.run("true")
        except TransportError:
            if time.monotonic() > until_s:
                raise
            time.sleep(2.0)
        else:
            return shell


def _summary(findings: Sequence[tuple[Any, ...]]) -> str:
    states = [state for _, state, _ in findings]
    return ", ".join(f"{states.count(one)} {one}" for one in sorted(set(states)))


if __name__ == "__main__":
    sys.exit(main())
