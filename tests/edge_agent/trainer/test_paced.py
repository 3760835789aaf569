"""A paced engine is the same engine, later."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_agent.trainer.paced import PacedEngine


class Quick:
    """An engine whose passes take what the test says."""

    def __init__(self) -> None:
        self.now_s, self.takes_s = 0.0, 0.3

    def loss_and_gradient(self, theta: Any, batch: Any) -> tuple[float, Any]:
        self.now_s += self.takes_s
        return float(batch["x"].sum()), theta * 2

    def scores(self, theta: Any, _batch: Any) -> dict[str, Any]:
        return {"logits": theta}


@pytest.mark.parametrize(("takes_s", "lasts_s"), [(0.3, 1.0), (1.5, 1.5)])
def test_a_pass_lasts_at_least_so_long_and_gives_the_same(takes_s: float, lasts_s: float) -> None:
    inner, waits = Quick(), list[float]()
    inner.takes_s = takes_s
    paced = PacedEngine(engine=inner, least_pass_s=1.0, clock_s=lambda: inner.now_s, sleep_s=waits.append)
    theta = np.ones(3, np.float32)
    loss, gradient = paced.loss_and_gradient(theta, {"x": np.full(2, 4.0)})
    assert (loss, gradient.tolist()) == (8.0, [2.0, 2.0, 2.0])
    assert takes_s + sum(waits) == pytest.approx(lasts_s)
    assert paced.scores(theta, {})["logits"] is theta
