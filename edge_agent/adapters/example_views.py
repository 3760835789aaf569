"""The store as data files: paths that a job may name in place of a .jsonl, so that the trainer reads sealed examples.

    <store>/train.rows    to train on: the present stretch
    <store>/replay.rows   what is kept of stretches before
    <store>/all.rows      both
    <store>/exam.rows     exams; exam-3.rows: those of stretch 3

Laws: no such file is ever written, so nothing lies there in the clear; the trainer opens the store for reading alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_agent.adapters.example_store import Role

__all__ = ["STORE_FILE", "SUFFIX", "file_of", "read_view", "view"]

SUFFIX: Final = ".rows"
STORE_FILE: Final = "examples.sqlite"
_ROLES: Final[dict[str, tuple[Role, ...]]] = {
    "train": ("train",),
    "replay": ("replay",),
    "all": ("train", "replay"),
    "exam": ("exam",),
}


def view(folder: Path, name: str) -> Path:
    """Return the path by which a job reads part of the store in ``folder``."""
    return folder / f"{name}{SUFFIX}"


def file_of(path: Path) -> Path:
    """Return the file that changes when the data at ``path`` do: the store's for a view, otherwise itself."""
    return path.with_name(STORE_FILE) if path.suffix == SUFFIX else path


def read_view(path: Path, *, labelled: bool) -> Iterator[tuple[int, Any]]:
    """Yield id and content of each example that ``path`` names.

    Raises:
        ConfigError: no such view, or no store there (whoever named it is at fault).
        StorageError: the store is damaged.
    """
    from edge_agent.adapters.example_store import ExampleStore  # noqa: PLC0415 - SQLite, for readers alone

    matched = re.fullmatch(r"(train|replay|all|exam)(?:-(\d{1,9}))?", path.stem)
    if matched is None:
        raise ConfigError(f"{path}: a store has the views {', '.join(_ROLES)}")
    if not file_of(path).is_file():
        raise ConfigError(f"{path}: no example store here")
    store = ExampleStore(path.parent)
    stretch = None if matched[2] is None else int(matched[2])
    try:
        yield from store.rows(_ROLES[matched[1]], stretch=stretch, labelled=labelled)
    finally:
        store.close()
