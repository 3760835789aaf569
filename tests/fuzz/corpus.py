"""All targets by name, and where their inputs are kept: ``tests/fuzz/corpus/TARGET``, a file an input.

The corpus holds what the search kept for its coverage, and every input that was once a finding (``found-*``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fuzz.files import file_targets
from tests.fuzz.inputs import input_targets
from tests.fuzz.targets import protocol_targets

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

__all__ = ["FOLDER", "NAMES", "keep", "kept", "target"]

FOLDER: Final = Path(__file__).parent / "corpus"
_MAX_KEPT: Final = 40  # a target
_MAX_KEPT_BYTES: Final = 4096
_TARGETS: Final = {target.name: target for target in (*protocol_targets(), *file_targets(), *input_targets())}
NAMES: Final = tuple(_TARGETS)


def target(name: str) -> Target:
    """Return the target of this name."""
    return _TARGETS[name]


def kept(name: str) -> list[Path]:
    """Return the committed inputs of a target."""
    return sorted((FOLDER / name).iterdir()) if (FOLDER / name).is_dir() else []


def keep(name: str, searched: Path) -> None:
    """Replace the committed inputs, but for findings, by some of a search: small and large ones alike."""
    found = sorted(
        (data for path in searched.iterdir() for data in [path.read_bytes()] if len(data) <= _MAX_KEPT_BYTES),
        key=lambda data: (len(data), data),
    )
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if not path.name.startswith("found-"):
            path.unlink()
    for data in found[:: -(-len(found) // _MAX_KEPT) or 1]:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
