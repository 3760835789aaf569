"""A device's own bound on what trainings may cost its examples: what it refuses before it downloads or trains anything.

Laws: the exact count is the trainer's, which knows the examples (``sample_record.charge``); what is asked here is asked
so that a training that cannot be is not begun, and is never more generous than that count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.adapters.sample_record import SampleRecord, why_beyond
from protocol.jobs import SampleCharge

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.privacy_settings import PrivacySettings
    from protocol.messages import Work

__all__ = ["SampleBudget"]


class SampleBudget:
    """One device's account of DP-SGD."""

    def __init__(self, settings: PrivacySettings, *, folder: Path, data: Path) -> None:
        """Count in ``folder`` what is spent of the examples in ``data``."""
        self._max_epsilon, self._delta = settings.max_sample_epsilon, settings.sample_delta
        self.is_strict = settings.max_sample_epsilon is not None and not settings.trust_per_example
        self._folder, self._data, self._record = folder, data, SampleRecord(folder)

    def why_not(self, work: Work) -> str | None:
        """Return why this device does not train this work, or None if it does.

        Raises:
            StorageError: the record is damaged.
        """
        if self._max_epsilon is None or self._delta is None:
            return None
        if work.plan.dp is None:
            return "its training adds no noise (plan.dp), privacy.max_sample_epsilon is set"
        epsilon = self._record.epsilon_after(work.plan, task=work.task, data=self._data, delta=self._delta)
        if epsilon is None:
            return None
        return why_beyond(epsilon, max_epsilon=self._max_epsilon, delta=self._delta)

    def charge(self, work: Work, training_id: bytes) -> SampleCharge | None:
        """Return what the trainer is to count before its first step; None for a training without noise."""
        if work.plan.dp is None:
            return None
        return SampleCharge(
            folder=str(self._folder),
            task=work.task,
            training_id=training_id.hex(),
            max_epsilon=self._max_epsilon,
            delta=self._delta,
        )
