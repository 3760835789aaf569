"""Structured logs: one JSON object a line on standard error, with the event's name and its facts.

Laws: an event's name is a fixed word of the code and its facts are fields, so that a line can be counted and searched;
no key, text, label or gradient is ever a fact. Programs of ours (the local fleet) read these lines; people may, too.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

__all__ = ["configure", "event"]

_LOGGER = logging.getLogger("edgefold")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
        line = line | getattr(record, "facts", {}) | line  # in this order, and no fact replaces the three
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(*, level: str = "info") -> None:
    """Send all logs of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def event(name: str, *, level: int = logging.INFO, exc_info: bool = False, **facts: object) -> None:
    """Log that ``name`` happened, with its facts."""
    _LOGGER.log(level, name, exc_info=exc_info, extra={"facts": facts})
