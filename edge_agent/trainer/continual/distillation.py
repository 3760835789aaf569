"""Learning without forgetting: on the new examples, stay close to what the model said of them before.

The loss against the former model's probabilities q is sum_c q_c (-log p_c). A training graph takes one label an
example, so a label is drawn from q instead: the gradient's expectation is exactly the above, at one more step's cost.

Laws: the draw comes from the generator alone; tasks without one label an example have no such term.

Source: Li and Hoiem 2016, "Learning without Forgetting", arXiv:1606.09282, eq. 2. Departures: the temperature is 1
(drawn labels give that one without bias), and all labels are compared, since one head serves all stretches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_agent.trainer.predictions import probabilities
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch

__all__ = ["relabelled"]


def relabelled(batch: Batch, outputs: Mapping[str, NDArray[np.float32]], *, rng: np.random.Generator) -> Batch:
    """Return ``batch`` with labels int64 [batch] drawn from what the former model's ``outputs`` say of it.

    Raises:
        ConfigError: the task has no label for each example (the plan's fault).
    """
    logits = outputs.get("logits")
    if logits is None or logits.ndim != 2 or "labels" not in batch:
        raise ConfigError("plan.continual.lwf_weight: only tasks with one label an example have it")
    shares = probabilities(logits)  # [batch, n_labels]
    draws = rng.random(len(shares))[:, None]  # [batch, 1]
    drawn = (shares.cumsum(axis=1) < draws).sum(axis=1)  # [batch]
    return batch | {"labels": np.minimum(drawn, shares.shape[1] - 1).astype(np.int64)}
