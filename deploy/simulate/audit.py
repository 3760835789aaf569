"""Holds a service's history against the virtual devices' own journal: nothing lost, nothing counted twice, same bytes.

Laws: what the devices say is believed, what the service says is checked: every update that a device was told is
accepted is in exactly one fold (or in a round that was openly abandoned), every update in a fold was sent, by that
device, for that round, and each version's bytes are the mean of the journal's deltas, in an asynchronous task each
weighted by its age, computed here by the papers' formulas and not by the service's code. The service's own ``task
verify`` is asked too, where it keeps updates.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.simulate.deltas import DeltaPool
from deploy.simulate.journal import entries
from deploy.simulate.service import ask
from host.arrays import load_vector
from protocol.fields import structure
from protocol.messages import Plan

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.simulate.journal import Entry
    from deploy.simulate.service import Service

__all__ = ["Audit", "audit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found; all but the first four must be 0."""

    n_accepted: int  # receipts of acceptance that devices heard
    n_folded: int  # updates in versions
    n_versions: int  # whose bytes were computed again from the journal
    n_abandoned: int  # accepted, in rounds that were dropped openly
    n_lost: int  # accepted, and in no fold
    n_twice: int  # in more than one fold
    n_unsent: int  # folded, but no device sent such a one
    n_wrong_bytes: int  # versions that are not the mean of the journal's deltas

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.n_lost or self.n_twice or self.n_unsent or self.n_wrong_bytes)


def audit(service: Service, journal: Path, *, seed: int, plan: dict[str, Any]) -> Audit:
    """Compare.

    Raises:
        EngineError: the service's commands fail.
        StorageError: the journal cannot be read.
    """
    sent: dict[str, Entry] = {}
    accepted: set[str] = set()
    for entry in entries(journal):
        if entry.act == "sent":
            sent[entry.update_id] = entry
        elif entry.act == "accepted":
            accepted.add(entry.update_id)
    told = ask(service, "updates")["updates"]
    folded = [one for one in told if one["status"] == "folded"]
    times = Counter(one["update_id"] for one in folded)
    dropped = {one["update_id"] for one in told if one["status"] == "discarded"}
    pool = DeltaPool(structure(Plan, plan), n_params=service.n_params, seed=seed)
    n_versions, n_wrong = _check_bytes(service, pool, folded, sent)
    return Audit(
        n_accepted=len(accepted),
        n_folded=len(folded),
        n_versions=n_versions,
        n_abandoned=len(accepted & dropped),
        n_lost=len(accepted - times.keys() - dropped),
        n_twice=sum(count > 1 for count in times.values()),
        n_unsent=sum(not _is_sent(one, sent) for one in folded),
        n_wrong_bytes=n_wrong,
    )


def _is_sent(told: dict[str, Any], sent: dict[str, Entry]) -> bool:
    entry = sent.get(told["update_id"])
    return entry is not None and (entry.device, entry.round) == (told["device"], told["round"])


def _check_bytes(
    service: Service, pool: DeltaPool, folded: list[dict[str, Any]], sent: dict[str, Entry]
) -> tuple[int, int]:
    """Return how many versions were computed again, and how many of them came out otherwise."""
    adapter, n_wrong, n_versions = load_vector(service.initial_adapter, n_values=service.n_params), 0, 0
    for version in ask(service, "show")["versions"]:
        if version["round"] is not None:
            here = [one for one in folded if (one["buffer"] or one["round"]) == version["round"]]
            own = [sent[one["update_id"]] for one in here if _is_sent(one, sent)]
            total = np.zeros(service.n_params, np.float64)  # [n_params]
            n_examples = sum(one.n_examples for one in own)
            ordered = sorted(own, key=lambda one: (one.device, one.round))
            for first in range(0, len(ordered), 64):  # in chunks (docs/adr/0025)
                part = np.zeros(service.n_params, np.float64)  # [n_params]
                for entry in ordered[first : first + 64]:
                    # FedBuff (arXiv:2106.06639, algorithm 1): 1 / sqrt(1 + tau); in a round tau is 0.
                    staleness = version["version"] - 1 - entry.version
                    weight = entry.n_examples * (1.0 / math.sqrt(1.0 + staleness))
                    part += pool.decoded(entry.delta).astype(np.float64) * weight
                total += part
            # FedAvg (arXiv:1602.05629, algorithm 1), in float64, in the order of device names.
            adapter = (total / max(1, n_examples) + adapter).astype(np.float32)
            n_versions += 1
        is_same = hashlib.sha256(adapter.astype("<f4").tobytes()).hexdigest() == version["state_blobs"]["adapter"]
        n_wrong += not is_same
    return n_versions, n_wrong
