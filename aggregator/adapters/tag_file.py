"""The operator's tags of devices, for choosing some of each kind: a file that is read again when it changes.

[tags]
kitchen-pi = "indoors"
greenhouse-2 = "outdoors"

Laws: a device's own word is never asked; one that is not named has the tag ``""``; a file that went bad is reported and
the last good one stays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.adapters.changed_file import ChangedFile
from host.config import MAX_REGISTRY_BYTES, load
from host.logs import event
from protocol.errors import ConfigError
from protocol.fields import Name  # noqa: TC001 - structure() resolves the annotations

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TagFile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    tags: dict[Name, Name]


class TagFile:
    """Implements ``aggregator.ports.Tags``."""

    def __init__(self, path: Path) -> None:
        """Read ``path``.

        Raises:
            ConfigError: missing, or no table of tags (the user's fault).
        """
        self._path = path
        self._file = ChangedFile(path)
        self._tags = load(_File, path, max_bytes=MAX_REGISTRY_BYTES).tags

    def tag_of(self, device: str) -> str:
        """Return the device's tag, or ``""``."""
        self._read_if_changed()
        return self._tags.get(device, "")

    def _read_if_changed(self) -> None:
        if not self._file.has_changed():
            return
        try:
            self._tags = load(_File, self._path, max_bytes=MAX_REGISTRY_BYTES).tags
            event("tags-read", devices=len(self._tags))
        except ConfigError as error:
            event("tags-refused", level=logging.ERROR, error=str(error))
