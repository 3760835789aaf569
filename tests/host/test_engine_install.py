"""Environments of engines: made from a folder of wheels alone, whole only with their stamp, removed."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from host import engines
from host.engine_install import install_engine, remove_engine
from host.engines import STAMP, Spec, environment_of, interpreter_of
from protocol.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)  # each makes a virtual environment with pip inside


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let there be an engine of one package, in a folder of wheels; return that folder."""
    spec = Spec(name="toy", summary="for tests", packages=("edgefold-toy-runtime==1.0",))
    monkeypatch.setattr(engines, "SPECS", {**engines.SPECS, "toy": spec})
    monkeypatch.setenv("EDGEFOLD_ENGINES", str(tmp_path / "engines"))
    wheelhouse = tmp_path / "wheels"
    wheelhouse.mkdir()
    info = "edgefold_toy_runtime-1.0.dist-info"
    with zipfile.ZipFile(wheelhouse / "edgefold_toy_runtime-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("edgefold_toy_runtime.py", "ANSWER = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: edgefold-toy-runtime\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return wheelhouse


def test_an_engine_is_installed_from_wheels_used_and_removed(toy: Path, tmp_path: Path) -> None:
    found = install_engine("toy", wheelhouse=toy)
    assert found.state == "installed"
    code = "import edgefold_toy_runtime, host.engines, protocol; print(edgefold_toy_runtime.ANSWER)"
    done = subprocess.run([interpreter_of("toy"), "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "42\n"
    assert install_engine("toy", wheelhouse=tmp_path / "none").state == "installed"  # nothing is done twice

    stamp = tmp_path / "engines" / "toy" / STAMP
    whole = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({**whole, "packages": ["edgefold-toy-runtime==0.9"]}))
    assert environment_of("toy").state == "stale"
    stamp.write_text(json.dumps({**whole, "edgefold": "/another"}))
    with pytest.raises(EngineError, match="by another edgefold; run: edgefold engine install toy"):
        interpreter_of("toy")

    assert remove_engine("toy") is True
    assert not (tmp_path / "engines" / "toy").exists()
    assert environment_of("toy").state == "missing"
    assert remove_engine("toy") is False
    assert (engines.packages_root() / "host" / "engines.py").is_file()  # links went, not what they point to


def test_wheels_that_are_not_there_are_no_reason_to_ask_a_network(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EngineError, match="pip failed: ERROR: No matching distribution"):
        install_engine("toy", wheelhouse=tmp_path / "empty")
    assert environment_of("toy").state == "missing"


def test_what_cannot_be_is_said_before_anything_is_made(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        install_engine("toy", wheelhouse=tmp_path / "none")
    with pytest.raises(ConfigError, match="no Python there"):
        install_engine("toy", wheelhouse=toy, python=str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="no engine is called 'x'"):
        remove_engine("x")
    with pytest.raises(ConfigError, match="no environment of its own"):
        remove_engine("portable")
    assert not (tmp_path / "engines").exists()


def test_an_interpreter_without_wheels_is_refused_by_its_version(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Spec(name="toy", summary="for tests", packages=("edgefold-toy-runtime==1.0",), pythons=((3, 8), (3, 9)))
    monkeypatch.setitem(engines.SPECS, "toy", spec)
    with pytest.raises(ConfigError, match="name another with --python"):
        install_engine("toy", wheelhouse=toy, python=sys.executable)
    assert not (tmp_path / "engines").exists()
