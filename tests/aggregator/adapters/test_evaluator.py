"""The evaluator: what a trainer process answers, its failure and its deadline all reach ``on_end`` exactly once."""

from __future__ import annotations

import queue
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.adapters.evaluator import ProcessEvaluator
from aggregator.ports import EvaluationRequest
from protocol.errors import EdgefoldError, EngineError
from protocol.jobs import EvaluateResult
from tests.aggregator.workbench import N_PARAMS, make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRAINERS = {
    "good": 'import sys, json; sys.stdin.readline(); print(json.dumps({"kind": "done", "sets": {"s": '
    '{"n_examples": 4, "n_correct": 3, "loss": 0.5}}, "wall_s": 1.0, "peak_memory_bytes": 1}))',
    "crash": "import sys; sys.exit(7)",
    "hang": "import time; time.sleep(60)",
}


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EvaluateResult | EdgefoldError]:
    """Evaluate with a trainer of the given kind."""
    request = EvaluationRequest(
        task="t",
        version=0,
        bundle=make_bundle(tmp_path / "bundle"),
        adapter=np.zeros(N_PARAMS, np.float32),
        sets={"s": tmp_path / "s.jsonl"},
        batch_size=8,
        max_tokens=64,
    )
    real = subprocess.Popen

    def run(kind: str, *, deadline_s: float = 30.0) -> EvaluateResult | EdgefoldError:
        def popen(command: list[str], **options: Any) -> Any:
            return real([command[0], "-c", TRAINERS[kind]], **options)

        monkeypatch.setattr(subprocess, "Popen", popen)
        outcomes: queue.Queue[EvaluateResult | EdgefoldError] = queue.Queue()
        evaluator = ProcessEvaluator(tmp_path / "evaluation", threads=1, deadline_s=deadline_s)
        evaluator.start(request, outcomes.put)
        outcome = outcomes.get(timeout=20)
        evaluator.close()
        assert outcomes.empty()
        return outcome

    return run


def test_a_result_arrives(evaluate: Callable[..., EvaluateResult | EdgefoldError]) -> None:
    result = evaluate("good")
    assert isinstance(result, EvaluateResult)
    assert result.sets["s"].n_correct == 3


def test_a_crash_is_an_engine_error(evaluate: Callable[..., EvaluateResult | EdgefoldError]) -> None:
    error = evaluate("crash")
    assert isinstance(error, EngineError)
    assert "exited with 7" in str(error)


def test_a_hang_ends_at_the_deadline(evaluate: Callable[..., EvaluateResult | EdgefoldError]) -> None:
    error = evaluate("hang", deadline_s=0.3)
    assert isinstance(error, EngineError)
    assert "evaluation.deadline_s" in str(error)
