"""``edgefold task export-model``: hands a version's adapter and its bundle to the exporter, which runs as a process.

Laws: the aggregator never loads the exporter's libraries; the adapter's blob is checked against its name before it is
handed over; what the exporter says, and its exit code, are passed on as they are.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import closing
from typing import TYPE_CHECKING

from aggregator.blob_place import open_blobs
from aggregator.core.folding import ADAPTER
from aggregator.folders import Folders
from protocol.layout import MAX_PARAMS

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.config import Config
    from aggregator.core.records import VersionRecord

__all__ = ["export_model"]


def export_model(
    config: Config, version: VersionRecord, *, bundle: str, out: Path, model: str | None, as_json: bool
) -> int:
    """Write ``version`` merged into its base to the new folder ``out``; return the exporter's exit code.

    Raises:
        StorageError: the version's adapter is missing or has changed.
    """
    with closing(open_blobs(Folders.of(config).blobs)) as blobs:
        data = blobs.get(version.state[ADAPTER], max_bytes=4 * MAX_PARAMS)
    with tempfile.NamedTemporaryFile(prefix="edgefold-", suffix=".f32") as file:
        file.write(data)
        file.flush()
        command = [sys.executable, "-m", "edgefold", "export", "merge", bundle, "--adapter", file.name]
        command += ["--out", str(out)]
        command += ["--model", model] if model is not None else []
        command += ["--json"] if as_json else []
        return subprocess.run(command, check=False).returncode
