from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.flash.deb import ARCHITECTURES, deb_steps
from deploy.flash.programs import find_program
from deploy.flash.steps import Move, Put, Run
from deploy.flash.workshop import carry_out

PATHS = {"dpkg-deb": find_program("dpkg-deb") or "/usr/bin/dpkg-deb"}


def steps_of(work: Path, architecture: str = "arm64") -> tuple[Any, ...]:
    return deb_steps(architecture, "3.11", version="0.1.0", work=work, out=work / "a.deb", programs=PATHS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_package_is_for_one_architecture_and_one_python(architecture: str) -> None:
    steps = steps_of(Path("/work"), architecture)
    (control,) = [one.data.decode() for one in steps if isinstance(one, Put) and one.path.name == "control"]
    assert f"Architecture: {architecture}\n" in control
    assert "python3 (>= 3.11), python3 (<< 3.12)" in control
    pip = next(one for one in steps if isinstance(one, Run))
    assert f"--platform=manylinux2014_{ARCHITECTURES[architecture]}" in pip.argv
    pack = [one for one in steps if isinstance(one, Run)][-1]
    assert "--root-owner-group" in pack.argv
    assert isinstance(steps[-1], Move)


@pytest.mark.skipif(find_program("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_dpkg_takes_it_and_everything_in_it_is_roots(tmp_path: Path) -> None:
    carry_out([one for one in steps_of(tmp_path) if not (isinstance(one, Run) and one.what == "fetch wheels")])
    command = [PATHS["dpkg-deb"], "--contents", str(tmp_path / "a.deb")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {line.split()[1] for line in lines} == {"root/root"}
    names = {line.split()[-1] for line in lines}
    assert {"./opt/edgefold/bin/edgefold", "./usr/bin/edgefold", "./opt/edgefold/site/edge_agent/app.py"} <= names


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_its_scripts_are_shell(name: str) -> None:
    (script,) = [one for one in steps_of(Path("/work")) if isinstance(one, Put) and one.path.name == name]
    assert script.mode == 0o755
    assert subprocess.run(["/bin/sh", "-n"], input=script.data, check=False).returncode == 0
