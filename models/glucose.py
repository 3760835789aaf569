"""Sample data: half a year of one person's blood glucose, a value every five minutes, from ``bokeh-sampledata``.

Series of a body are what should not leave a device. The record has gaps, where the sensor was changed or lost; a series
ends there. Devices get consecutive parts of the first three quarters of the time, and the last quarter is the test.

Laws: nothing is used whose SHA-256 is not the pinned one (``pinned_file``); one named member of the wheel is read,
bounded, and nothing of it is run; the same call gives the same bytes on every machine. No torch here.

Source: the package says of the data: measured by a person who gave it into the public domain; mg/dL.
"""

import csv
import gzip
import io
import json
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from models.pinned_file import PinnedFile, fetch
from protocol.errors import TrustError

__all__ = ["fetch_glucose", "write_parts"]

WHEEL: Final = PinnedFile(
    requirement="bokeh-sampledata==2026.1",
    name="bokeh_sampledata-2026.1-py3-none-any.whl",
    sha256="f40331a40ca30c64a1c1471835aad9006b61b0d9731a3f649ee8cbbf48d3822f",
    pip_arguments=("--only-binary=:all:",),
)
MEMBER: Final = "bokeh_sampledata/_data/CGM.csv.gz"
MAX_BYTES: Final = 4 * 2**20  # it has 1.6 MB
LONGEST_STEP: Final = timedelta(minutes=6)  # above the sensor's five minutes, below two of them
TRAINING_FRACTION: Final = 0.75

Series = list[float]


def fetch_glucose(folder: Path) -> Path:
    """Return the wheel in ``folder``, fetched unless it is there; errors as in ``pinned_file.fetch``."""
    return fetch(WHEEL, folder)


def write_parts(wheel: Path, folder: Path, *, n_devices: int, least_steps: int) -> tuple[dict[str, Path], Path]:
    """Write each device's series and those of the test to ``folder``, JSON lines of ``{"series": [...]}``.

    Args:
        wheel: what ``fetch_glucose`` returned.
        folder: made if it is missing.
        n_devices: how many parts the training time is cut into.
        least_steps: shorter series are left out.

    Raises:
        TrustError: the wheel is not what it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed, gzip.open(packed) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        message = f"{wheel}: {MEMBER} is longer than {MAX_BYTES} bytes"
        raise TrustError(message)
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8"))))
    n_training = int(TRAINING_FRACTION * len(rows))
    cuts = [n_training * i // n_devices for i in range(n_devices + 1)]
    devices = {}
    for i in range(n_devices):
        devices[f"wearer-{i + 1}"] = _write(folder / f"part-{i + 1}.jsonl", rows[cuts[i] : cuts[i + 1]], least_steps)
    return devices, _write(folder / "test.jsonl", rows[n_training:], least_steps)


def _write(path: Path, rows: list[dict[str, str]], least_steps: int) -> Path:
    lines = [json.dumps({"series": one}) for one in _series(rows) if len(one) >= least_steps]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def _series(rows: list[dict[str, str]]) -> list[Series]:
    """Return the values between gaps."""
    found: list[Series] = []
    before: datetime | None = None
    for row in rows:
        now = datetime.fromisoformat(row["datetime"])
        if before is None or not timedelta() < now - before <= LONGEST_STEP:
            found.append([])
        found[-1].append(float(row["glucose"]))
        before = now
    return found
