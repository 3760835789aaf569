"""A strategy's terms in one round on one device: what to begin with, how to step, what to send, what to keep.

Laws: without terms it is plain local training, bit for bit; the proximal term is part of the loss, so it is clipped
with the gradient, and control variates correct what was clipped, so c_i stays a mean of clipped gradients; what is kept
counts only once the update was accepted (the agent's affair).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_agent.trainer.controls import Controls
from edge_agent.trainer.optimizers import clip_norm
from edge_agent.trainer.proximal import with_proximal_term
from edge_agent.trainer.selected import Selection, starting_point
from protocol import codec
from protocol.lora_pairs import n_dense_values
from protocol.plan import DeviceTerms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.trainer.optimizers import FlatOptimizer
    from protocol.layout import Layout
    from protocol.plan import Plan

__all__ = ["LocalTerms", "n_work_values"]


def n_work_values(terms: DeviceTerms | None, layout: Layout) -> int:
    """Return how many values the adapter in a work message has; the service's control, or a base change, follows it."""
    terms = terms or DeviceTerms()
    n_values = layout.n_params * (2 if terms.has_controls else 1)
    return n_values + (n_dense_values(layout) if terms.base_change else 0)


class LocalTerms:
    """The terms of one round."""

    def __init__(
        self, plan: Plan, layout: Layout, *, received: NDArray[np.float32], kept: NDArray[np.float32] | None
    ) -> None:
        """Take what the work message brought and what the device kept of its last accepted round of the task.

        Args:
            plan: what to do; its optimiser's learning rate scales the control's change.
            layout: the adapter's.
            received: float32 [n_params], and behind it the service's control where the terms have one.
            kept: float32 [n_params]: the own control variate or the own adapter; None in the first round.
        """
        self._plan, self._terms = plan, plan.terms or DeviceTerms()
        self._selection = Selection.of(layout, plan.terms)
        n_params = layout.n_params
        self._controls: Controls | None = None
        if self._terms.has_controls:
            own = np.zeros(n_params, np.float32) if kept is None else kept
            self._controls = Controls(service=received[n_params:], own=own)
        self.start = starting_point(received[:n_params], layout, plan.terms, kept=kept)  # [n_params]
        self._anchor = self.start[self._selection.trained].copy()  # [n_trained]

    @property
    def n_trained(self) -> int:
        """How many values an optimiser moves."""
        return self._selection.n_trained

    def step(self, optimizer: FlatOptimizer, theta: NDArray[np.float32], gradient: NDArray[np.float32]) -> None:
        """Move ``theta`` [n_params] in place by one step on ``gradient`` [n_params]."""
        where = self._selection.trained
        part = theta[where]  # [n_trained], a view if that is everything
        slope = with_proximal_term(gradient[where], part, self._anchor, self._terms.proximal_mu)
        slope = clip_norm(slope, self._plan.clip_grad_norm)
        optimizer.step(part, slope if self._controls is None else self._controls.corrected(slope))
        theta[where] = part

    def delta(self, theta: NDArray[np.float32], residual: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return local minus received of what is sent, float32 [n_sent], with what earlier encodings rounded away."""
        # Clipped with the residual inside: what is sent keeps the plan's bound, and what the clip cuts off is not kept.
        return clip_norm((theta - self.start + residual)[self._selection.sent], self._plan.clip_update_norm)

    def encode(
        self, theta: NDArray[np.float32], residual: NDArray[np.float32], *, n_steps: int
    ) -> tuple[bytes, NDArray[np.float32]]:
        """Return the update's payload and the residual for the next round [n_params].

        ``residual`` is what earlier encodings rounded away; of values that are not sent it waits for its turn.
        """
        where = self._selection.sent
        values = delta = self.delta(theta, residual)  # [n_sent]
        if self._controls is not None:
            change = self._controls.change(
                self.start, theta, n_steps=n_steps, learning_rate=self._plan.optimizer.learning_rate
            )
            values = np.concatenate([delta, change])  # [2 n_params]
        payload = codec.encode(values, self._plan.codec)
        decoded = codec.decode(payload, n_values=values.size)
        after = residual.copy()
        after[where] = delta - decoded[: delta.size]
        self._decoded = decoded
        return payload, after

    def keeps(self, theta: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Return what the device's next round of the task begins with, float32 [n_params]; call ``encode`` first."""
        if self._controls is not None:
            return self._controls.own + self._decoded[self.start.size :]  # c_i as the service knows it
        return theta if self._terms.personal_roles else None
