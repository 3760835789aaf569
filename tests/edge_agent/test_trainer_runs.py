from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.core.session import Event, Resume
from edge_agent.trainer_runs import TrainerRuns
from protocol.errors import EdgefoldError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.ports import Running

Outcome = str | EdgefoldError


class Process:
    """Ends when the test says so."""

    pid = 1

    def __init__(self) -> None:
        self.n_closed = 0
        self.on_end: Callable[[Outcome], None] = lambda _: None

    def begin(self, *, on_end: Callable[[Outcome], None]) -> Running:
        self.on_end = on_end
        return self

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.n_closed += 1
        self.on_end(EngineError("ended by signal 9"))  # as a real one says, late


class Heard:
    """What outcomes were looked at, and how often the agent was woken."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.n_woken = 0
        self.runs = TrainerRuns(wake=self.wake)

    def wake(self) -> None:
        self.n_woken += 1

    def meaning(self, outcome: Outcome) -> Event | None:
        self.outcomes.append(outcome)
        self.runs.over()
        return None if outcome == "means nothing" else Resume()


def test_an_end_wakes_the_agent_and_is_looked_at_when_the_agent_asks() -> None:
    heard, process = Heard(), Process()
    heard.runs.start(process.begin, heard.meaning)
    assert heard.runs.running is process
    process.on_end("done")
    assert (heard.n_woken, heard.outcomes) == (1, [])
    assert list(heard.runs.ended()) == [Resume()]
    assert heard.outcomes == ["done"]
    assert heard.runs.running is None
    assert list(heard.runs.ended()) == []


def test_a_trainer_that_was_stopped_is_not_listened_to() -> None:
    heard, process = Heard(), Process()
    heard.runs.start(process.begin, heard.meaning)
    heard.runs.stop()
    heard.runs.stop()  # there is nothing left to stop
    assert (process.n_closed, heard.runs.running) == (1, None)
    assert list(heard.runs.ended()) == []
    assert heard.outcomes == []


def test_a_trainer_that_cannot_be_started_has_ended_too() -> None:
    heard, error = Heard(), EngineError("no engine")

    def begin(*, on_end: Callable[[Outcome], None]) -> Running:
        del on_end
        raise error

    heard.runs.start(begin, heard.meaning)
    assert heard.runs.running is None
    assert list(heard.runs.ended()) == [Resume()]
    assert heard.outcomes == [error]


def test_an_end_that_means_nothing_hides_no_later_one() -> None:
    heard, process = Heard(), Process()
    for outcome in ("means nothing", "done"):
        heard.runs.start(process.begin, heard.meaning)
        process.on_end(outcome)
    assert list(heard.runs.ended()) == [Resume()]
    assert heard.outcomes == ["means nothing", "done"]
