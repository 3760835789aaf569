"""The accountant in a process of its own, since its libraries would stay in the service's memory: 90 MB against 70.

Started once or twice a round, it lives for 1 to 10 s; the pump waits for it. Answers are kept, so that the same
question is not asked twice. One JSON object goes in on standard input and one comes out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from aggregator.core.privacy.accounting import epsilon_of, noise_for
from aggregator.core.privacy.ledger import Step
from protocol.errors import StorageError
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ProcessAccountant", "main"]

# A search at a thousand sampled rounds takes 10 s on one core of a server.
_DEADLINE_S: Final = 300.0


class ProcessAccountant:
    """Implements ``aggregator.ports.Accountant``."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._answers: dict[str, float | None] = {}

    def epsilon(self, steps: Sequence[Step], *, delta: float) -> float:
        """Return ``core.privacy.accounting.epsilon_of``.

        Raises:
            StorageError: no answer came (memory, disk, a broken installation).
        """
        answer = self._ask({"steps": [plain(one) for one in steps], "delta": delta})
        if answer is None:
            raise StorageError("the privacy accountant gave no epsilon")
        return answer

    def noise(
        self, spent: Sequence[Step], *, n_rounds: int, sampling_rate: float, epsilon: float, delta: float
    ) -> float | None:
        """Return ``core.privacy.accounting.noise_for``.

        Raises:
            StorageError: no answer came.
        """
        search = {"n_rounds": n_rounds, "sampling_rate": sampling_rate, "epsilon": epsilon}
        return self._ask({"steps": [plain(one) for one in spent], "delta": delta, "search": search})

    def _ask(self, question: dict[str, object]) -> float | None:
        text = json.dumps(question, sort_keys=True)
        if text not in self._answers:
            self._answers[text] = _run(text)
        return self._answers[text]


def _run(text: str) -> float | None:
    command = [sys.executable, "-m", "aggregator.adapters.accountant"]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StorageError(f"the privacy accountant gave no answer: {error}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise StorageError(f"the privacy accountant failed: {lines[-1] if lines else 'no reason given'}")
    answer = json.loads(done.stdout)["answer"]
    return None if answer is None else float(answer)


def main() -> None:
    """Answer the question on standard input."""
    question = json.load(sys.stdin)
    steps = [Step(**one) for one in question["steps"]]
    search = question.get("search")
    if search is None:
        answer: float | None = epsilon_of(steps, delta=question["delta"])
    else:
        answer = noise_for(steps, delta=question["delta"], **search)
    json.dump({"answer": answer}, sys.stdout)


if __name__ == "__main__":
    main()
