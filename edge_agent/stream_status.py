"""How a device's stream and its personal parts stand, for `edgefold agent status`: from the agent's files alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.adapters.personal_part import PersonalFacts, personal_facts
from edge_agent.adapters.scores import load_scores

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.core.progress import Progress

__all__ = ["StreamStatus", "read_stream", "stream_lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """The score of the stream, each example predicted before it was learnt from; fractions.

    Attributes:
        n_tested: labelled examples.
        accuracy: over all of them.
        recent_accuracy: over the last hundred.
        n_drifts: how often the stream was found to have changed.
        progress: over its stretches; None before the first exam.
        personal: the parts that were trained here and are served.
    """

    n_tested: int
    accuracy: float | None
    recent_accuracy: float | None
    n_drifts: int
    progress: Progress | None
    personal: tuple[PersonalFacts, ...]


def read_stream(folder: Path) -> StreamStatus | None:
    """Return how the stream stands in the agent's ``folder``; None for a device that has none."""
    scores = load_scores(folder)
    names = (path.stem.removeprefix("personal-") for path in sorted(folder.glob("personal-*.json")))
    personal = tuple(facts for name in names if (facts := personal_facts(folder, name)) is not None)
    if not scores.n_tested and not personal:
        return None
    return StreamStatus(
        n_tested=scores.n_tested,
        accuracy=scores.accuracy,
        recent_accuracy=scores.recent_accuracy,
        n_drifts=scores.n_drifts,
        progress=scores.progress,
        personal=personal,
    )


def stream_lines(found: StreamStatus | None) -> list[tuple[str, str]]:
    """Return the lines of the screen, none for a device without a stream."""
    if found is None:
        return []
    lines = []
    if found.accuracy is not None and found.recent_accuracy is not None:
        lately = f"{found.recent_accuracy:.1%} lately, {found.accuracy:.1%} over all {found.n_tested}"
        lines.append(("stream", f"right before it learnt: {lately}; drifted {found.n_drifts} times"))
    if (progress := found.progress) is not None:
        text = f"average accuracy {progress.average_accuracy:.1%} over {progress.n_stretches} stretches"
        if progress.forgetting is not None and progress.backward_transfer is not None:
            text += f", forgetting {100 * progress.forgetting:.1f} points"
            text += f", backward transfer {100 * progress.backward_transfer:+.1f} points"
        lines.append(("exams", text))
    for one in found.personal:
        text = f"{one.task}: {one.personal_accuracy:.1%} against {one.global_accuracy:.1%} without"
        lines.append(("personal", f"{text}, on {one.n_exam} exam examples at version {one.version}"))
    return lines
