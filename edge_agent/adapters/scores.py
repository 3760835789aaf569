"""How this device's stream is going, on disk: what the local process counts and others read.

    local/scores.json    in the agent's folder, replaced whole

Laws: counts and fractions alone, no example; a damaged file is a score that begins anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

from edge_agent.core.drift import DriftState
from edge_agent.core.progress import Progress, progress_of
from host.durable import make_folder, read_bytes, write_bytes
from protocol.errors import StorageError
from protocol.fields import FieldError, Length, Pattern, Range, plain, structure

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ScoreState", "load_scores", "save_scores"]

_MAX_BYTES: Final = 1 << 20
_Count = Annotated[int, Range(0, 2**53)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreState:
    """See ``core.progress`` for ``rows``: row i has the accuracies on the exams of stretches 0 to i."""

    n_tested: _Count = 0
    n_right: _Count = 0
    recent: Annotated[str, Length(0, 100), Pattern(r"[01]*", "right and wrong answers")] = ""
    n_drifts: _Count = 0
    drift: DriftState = field(default_factory=DriftState)
    rows: Annotated[tuple[tuple[Annotated[float, Range(0, 1)], ...], ...], Length(0, 4096)] = ()

    def having(self, **changes: Any) -> ScoreState:  # noqa: ANN401 - as dataclasses.replace
        """Return the state with ``changes``."""
        return replace(self, **changes)

    @property
    def accuracy(self) -> float | None:
        """Of all examples, each predicted before it was learnt from."""
        return self.n_right / self.n_tested if self.n_tested else None

    @property
    def recent_accuracy(self) -> float | None:
        """Of the last hundred."""
        return self.recent.count("1") / len(self.recent) if self.recent else None

    @property
    def progress(self) -> Progress | None:
        """Average accuracy, forgetting and backward transfer over the stretches."""
        return progress_of(self.rows)


def load_scores(folder: Path) -> ScoreState:
    """Return the saved score in the agent's folder, a new one if there is none that can be read."""
    try:
        data = read_bytes(folder / "local" / "scores.json", max_bytes=_MAX_BYTES)
        return structure(ScoreState, json.loads(data), lenient_floats=True)
    except (FileNotFoundError, StorageError, FieldError, ValueError, RecursionError):
        return ScoreState()


def save_scores(folder: Path, state: ScoreState) -> None:
    """Replace the saved score."""
    write_bytes(make_folder(folder / "local") / "scores.json", json.dumps(plain(state)).encode())
