"""Each device's own seed for a round, from the task's seed alone, so that a work message can be made again exactly."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.plan import Plan

__all__ = ["plan_for"]


def plan_for(plan: Plan, *, task: str, round_: int, device: str) -> Plan:
    """Return ``plan`` with the seed of this device in this round: it orders batches and guards nothing."""
    digest = hashlib.sha256(f"{plan.seed}/{task}/{round_}/{device}".encode()).digest()
    seed = int.from_bytes(digest[:8], "big") >> 1  # Plan.seed has 63 bits
    return dataclasses.replace(plan, seed=seed)
