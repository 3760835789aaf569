"""``edgefold task export-model``: hands a version's adapter and its bundle to the exporter, which runs as a process.

Laws: the aggregator never loads the exporter's libraries; the adapter's blob, and that of a base change, is checked
against its name before it is handed over; what the exporter says, and its exit code, are passed on as they are.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator.blob_place import open_blobs
from aggregator.core.base_change import BASE
from aggregator.core.folding import ADAPTER
from aggregator.folders import Folders
from protocol.layout import MAX_PARAMS

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.core.records import VersionRecord

__all__ = ["export_model"]


def export_model(
    config: Config, version: VersionRecord, *, bundle: str, out: Path, model: str | None, as_json: bool
) -> int:
    """Write ``version`` merged into its base to the new folder ``out``; return the exporter's exit code.

    Raises:
        StorageError: the version's adapter or base change is missing or has changed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="edgefold-") as name,
        closing(open_blobs(Folders.of(config).blobs)) as blobs,
    ):
        command = [sys.executable, "-m", "edgefold", "export", "merge", bundle, "--out", str(out)]
        for vector, option in ((ADAPTER, "--adapter"), (BASE, "--base-change")):
            if vector in version.state:
                path = Path(name) / f"{vector}.f32"
                path.write_bytes(blobs.get(version.state[vector], max_bytes=4 * MAX_PARAMS))
                command += [option, str(path)]
        command += ["--model", model] if model is not None else []
        command += ["--json"] if as_json else []
        return subprocess.run(command, check=False).returncode
