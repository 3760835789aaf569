"""What two bundles differ in."""

import json
import shutil
from pathlib import Path

from click.testing import CliRunner

from export.bundle import Exported
from export.cli import export
from export.differences import differences
from protocol.bundle import MANIFEST


def test_a_bundle_does_not_differ_from_its_copy_and_a_changed_fact_is_named(exported: Exported, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(exported.folder, other)
    assert differences(exported.folder, other) == ()
    manifest = json.loads((other / MANIFEST).read_text())
    manifest["model"]["source"] = "another"
    (other / MANIFEST).write_text(json.dumps(manifest))
    (found,) = differences(exported.folder, other)
    assert (found.where, found.right) == ("manifest.model.source", "another")
    result = CliRunner().invoke(export, ["diff", str(exported.folder), str(other), "--json"])
    assert json.loads(result.output) == {
        "equal": False,
        "differences": [{"where": found.where, "left": found.left, "right": "another"}],
    }
