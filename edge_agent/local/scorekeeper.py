"""Test, then train: each labelled example is predicted before it is learnt from, and the errors are watched for drift.

Laws: a prediction is counted before its example can be in any training; when the stream has drifted, the present
stretch ends, the reservoir keeps a fair draw of it and the personal part, which was made for it, is taken away; exams
are answered by what is served, and never trained on. Nothing of this is sent: no task can ask for it yet. A model that
cannot answer costs the score, not the example.

Source: Gama, Sebastiao and Rodrigues 2013, "On evaluating stream learning algorithms", Machine Learning 90 (test, then
train); ``core.drift`` and ``core.progress`` for theirs.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final

from edge_agent.adapters.personal_part import remove_personal
from edge_agent.adapters.scores import ScoreState, load_scores, save_scores
from edge_agent.core.drift import watch
from host.logs import event as log
from protocol.errors import EdgefoldError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edge_agent.adapters.example_store import ExampleStore
    from edge_agent.continual_settings import ContinualSettings
    from edge_agent.local.serving import Serving

__all__ = ["Scorekeeper"]

_BATCH: Final = 16
_RECENT: Final = 100  # answers in "lately"
_MAX_STRETCHES: Final = 64  # rows of the matrix; beyond it the first stretches are no longer looked at


class Scorekeeper:
    """The score of one device's stream; one thread at a time."""

    def __init__(self, folder: Path, serving: Serving, settings: ContinualSettings, *, replay_examples: int) -> None:
        """Take up the saved score of the agent's ``folder``."""
        self._folder, self._serving, self._settings = folder, serving, settings
        self._replay_examples = replay_examples
        self._state = load_scores(folder)
        self._examined_s = float("-inf")
        self._random = random.Random()  # noqa: S311 - which examples are kept guards nothing

    @property
    def state(self) -> ScoreState:
        """The score so far."""
        return self._state

    def test(self, rows: Sequence[dict[str, Any]], store: ExampleStore) -> None:
        """Predict the labelled ones of ``rows``, which are not in the store yet, and count."""
        labelled = [row for row in rows if type(row.get("label")) is int]
        try:
            answers = list(self._answers(labelled))
        except EdgefoldError as error:
            log("examples-not-tested", n=len(labelled), error=str(error))
            return
        for row, said in zip(labelled, answers, strict=False):
            self._count(is_right=said == row["label"], store=store)
        if answers:
            save_scores(self._folder, self._state)

    def examine(self, store: ExampleStore) -> None:
        """Answer the exams of all stretches if it is time; the last row of the matrix is the present one."""
        served, now_s = self._serving.served(), time.monotonic()
        if served is None or now_s - self._examined_s < self._settings.exam_s:
            return
        self._examined_s = now_s
        try:
            self._set_row(store)
        except EdgefoldError as error:
            log("exam-not-held", error=str(error))

    def _count(self, *, is_right: bool, store: ExampleStore) -> None:
        settings, state = self._settings, self._state
        drift, has_drifted = watch(
            state.drift,
            0.0 if is_right else 1.0,
            tolerance=settings.drift_tolerance,
            threshold=settings.drift_threshold,
            warm_up=settings.drift_warm_up,
        )
        recent = (state.recent + ("1" if is_right else "0"))[-_RECENT:]
        self._state = state.having(
            n_tested=state.n_tested + 1, n_right=state.n_right + is_right, recent=recent, drift=drift
        )
        if has_drifted:
            self._end_stretch(store)

    def _end_stretch(self, store: ExampleStore) -> None:
        self._set_row(store)
        stretch = store.begin_stretch(capacity=self._replay_examples, draw=self._random.random)
        log("stream-drifted", tested=self._state.n_tested, stretch=stretch)
        served = self._serving.served()
        if served is not None and served.task is not None:
            remove_personal(self._folder, served.task)
        self._state = self._state.having(n_drifts=self._state.n_drifts + 1)
        save_scores(self._folder, self._state)

    def _set_row(self, store: ExampleStore) -> None:
        stretch = store.counts().stretch
        row = []
        for one in range(min(stretch, _MAX_STRETCHES - 1) + 1):
            exam = [content for _, content in store.rows(("exam",), stretch=one)][-self._settings.max_exam :]
            row.append(self._accuracy(exam))
        if row[-1] is None:
            return  # no exam of the present stretch yet
        filled = tuple(0.0 if one is None else one for one in row)
        rows = (*self._state.rows[:stretch], *[filled] * (stretch + 1 - len(self._state.rows[:stretch])))
        self._state = self._state.having(rows=rows)
        save_scores(self._folder, self._state)

    def _accuracy(self, exam: Sequence[dict[str, Any]]) -> float | None:
        right = [said == row["label"] for row, said in zip(exam, self._answers(exam), strict=True)]
        return sum(right) / len(right) if right else None

    def _answers(self, rows: Sequence[dict[str, Any]]) -> Iterator[int | None]:
        """Yield the label that the model gives each row."""
        for start in range(0, len(rows), _BATCH):
            asked = [{k: v for k, v in row.items() if k != "label"} for row in rows[start : start + _BATCH]]
            for said in self._serving.answer(asked, is_counted=False).predictions:
                yield said.get("label")
