"""A person's own mistake at ``edgefold export`` is one line and an exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.bundle import Exported

ROOT = Path(__file__).parents[2]


def edgefold(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "edgefold", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["./no-such-folder", "--labels", "2"], "no such folder"),
        (["someone/some-model", "--labels", "2"], "give a local folder"),
        (["minilm", "--labels", "1"], "--labels is 1"),
        (["minilm", "--labels", "2", "--targets", "q_proj"], "q_proj"),
        (["minilm", "--labels", "2", "--max-tokens", "4096"], "positions"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = edgefold("export", *arguments, "--out", str(tmp_path / "bundle"))
    errors = [line for line in done.stderr.splitlines() if not line.startswith("export: ")]
    assert done.returncode == 2
    assert len(errors) == 1
    assert says in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_options_may_stand_before_the_model(tmp_path: Path) -> None:
    done = edgefold("export", "--labels", "1", "--out", str(tmp_path / "bundle"), "minilm")
    assert (done.returncode, "--labels is 1" in done.stderr) == (2, True)


def test_verify_prints_one_json_object(exported: Exported) -> None:
    done = edgefold("export", "verify", str(exported.folder), "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["id"]) == (0, True, exported.id)


def test_verify_of_a_folder_that_is_no_bundle_is_a_matter_of_trust(tmp_path: Path) -> None:
    done = edgefold("export", "verify", str(tmp_path))
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['edgefold', 'export', 'model', '--help']\n"
        "import edgefold\n"
        "try: edgefold.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'onnx', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "--max-tokens" in done.stdout
    assert done.stdout.endswith("[]\n")
