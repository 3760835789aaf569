"""An installation over a real ssh, to this very machine and a folder of its own: ``make test-ssh``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from deploy.flash import remote
from deploy.flash.settings import make_setup
from deploy.flash.ssh_install import Address, Remote, install
from deploy.flash.wheelhouse import Release, make_release, make_wheelhouse
from deploy.local import free_ports
from protocol.errors import ConfigError, EngineError, TrustError
from tests.deploy.test_enrolment import Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.ssh, pytest.mark.slow, pytest.mark.serial, pytest.mark.timeout(1200)]
SSHD = "/usr/sbin/sshd"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Remote]:
    if os.environ.get("EDGEFOLD_SSH", "").lower() not in {"1", "true"}:
        pytest.skip("takes a minute and fetches wheels; run: make test-ssh")
    assert shutil.which(SSHD), "install openssh-server and openssh-client"
    for name in ("host", "own"):
        command = ["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    (port,) = free_ports(1)
    lines = (
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/own.pub\n"
        "UsePAM no\nStrictModes no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    (tmp_path / "sshd_config").write_text(lines)
    if os.getuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # noqa: PTH103 - where sshd wants to be locked into
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=subprocess.DEVNULL)
    options = ("-i", f"{tmp_path}/own", "-o", f"UserKnownHostsFile={tmp_path}/known", "-o", "StrictHostKeyChecking=no")
    time.sleep(1.0)
    yield Remote(Address(host="127.0.0.1", port=port), options=options)
    server.terminate()
    server.wait()


def test_it_is_installed_enrolled_healthy_again_and_switched_back(machine: Remote, tmp_path: Path) -> None:
    served = Served(tmp_path)
    place = remote.Place(kind="user", root=str(tmp_path / "agent"))
    wheels, told = tmp_path / "wheels", list[str]()

    def release_for(probe: remote.Probe) -> Release:
        if not wheels.exists():
            make_wheelhouse(wheels, platform=probe.platform, python=probe.python)
        return make_release(wheels, tmp_path, machine=probe, program=remote.program_text(probe.interpreter))

    def broken(probe: remote.Probe) -> Release:
        return make_release(wheels, tmp_path, machine=probe, program="#!/bin/sh\nexit 9\n")

    def go(**changes: Any) -> Any:
        setup = make_setup(device="jetson", token=served.token(), data_mb=64)
        options = {"release_for": release_for, "folder": place.root, "watch": told.append, **changes}
        return install(machine, setup, **options)

    try:
        done = go()
        assert done.probe.python == ".".join(map(str, sys.version_info[:2])) or done.probe.python.startswith("3.1")
        assert {state for name, state, _ in done.findings if name in {"identity", "tls", "folder", "config"}} == {"ok"}
        assert [one["device"] for one in served.devices()] == ["jetson"]
        assert not (tmp_path / "agent/state/token").exists()
        key = (tmp_path / "agent/state/device.key").read_bytes()
        told.clear()
        again = go()  # the same release: nothing is copied, nobody enrols
        assert again.release == done.release
        assert not {"copy the agent", "enrol"} & set(told)
        with pytest.raises(EngineError, match=f"{done.release} runs again"):
            go(release_for=broken)
        assert (tmp_path / "agent/current").readlink().name == done.release
        assert (tmp_path / "agent/state/device.key").read_bytes() == key
        assert_up(tmp_path / "agent/state/agent.log")
        first = next(wheels.glob("*.whl"))
        first.write_bytes(first.read_bytes() + b"x")
        with pytest.raises(TrustError, match="not the wheel"):
            go()
    finally:
        machine.run(remote.stop_script(place))
        served.process.stop()


def assert_up(log: Path) -> None:
    before, until = log.read_text().count("link-up"), time.monotonic() + 90
    while time.monotonic() < until:
        if log.read_text().count("link-up") > before:
            return
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


def test_a_machine_that_nobody_answers_at_is_one_line(machine: Remote, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    setup = make_setup(device="x", token=_token())
    with pytest.raises(Exception, match=r"127\.0\.0\.1: ") as raised:
        install(Remote(Address(host="127.0.0.1", port=port)), setup, release_for=lambda _: None)  # type: ignore[arg-type,return-value]
    assert type(raised.value).__name__ == "TransportError"
    assert not isinstance(raised.value, ConfigError)
    del machine, tmp_path


def _token() -> str:
    from protocol.enrolment import Token, token_text

    return token_text(Token(fleet="home", url="mqtts://broker.example:8884", welcome=bytes(32), secret=bytes(16)))
