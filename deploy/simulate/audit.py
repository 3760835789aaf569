"""Holds a service's history against the virtual devices' own journal: nothing lost, nothing counted twice, same bytes.

Laws: what the devices say is believed, what the service says is checked: every update that a device was told is
accepted is in exactly one fold (or in a round that was openly abandoned), every update in a fold was sent, by that
device, for that round, and each version's bytes are the mean of the journal's deltas, in an asynchronous task each
weighted by its age, computed here by the papers' formulas and not by the service's code; which versions a gate refused
is believed here and checked by ``verdicts``. The service's own ``task verify`` is asked too, where it keeps updates.
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
from protocol.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from deploy.simulate.journal import Entry
    from deploy.simulate.service import Service

__all__ = ["Audit", "audit", "refolded"]


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
    sent = _sent(journal)
    accepted = {entry.update_id for entry in entries(journal) if entry.act == "accepted"}
    told = ask(service, "updates")["updates"]
    folded = [one for one in told if one["status"] == "folded"]
    times = Counter(one["update_id"] for one in folded)
    dropped = {one["update_id"] for one in told if one["status"] == "discarded"}
    n_versions, n_wrong = 0, 0
    for version, adapter in refolded(service, journal, seed=seed, plan=plan):
        n_versions += version["round"] is not None
        n_wrong += hashlib.sha256(adapter.astype("<f4").tobytes()).hexdigest() != version["state_blobs"]["adapter"]
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


def refolded(
    service: Service, journal: Path, *, seed: int, plan: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
    """Yield what ``edgefold task show`` says of each version, and its adapter as the journal has it.

    A version is folded into the newest one before it that is promoted, which without a gate all are; one without a
    round, put back for a refused one, has that one's bytes. Errors as ``audit``; memory: three adapters.
    """
    sent = _sent(journal)
    pool = DeltaPool(structure(Plan, plan), n_params=service.n_params, seed=seed)
    folded = [one for one in ask(service, "updates")["updates"] if one["status"] == "folded"]
    base, adapter, refused = 0, load_vector(service.initial_adapter, n_values=service.n_params), set[int]()
    for version in ask(service, "show")["versions"]:
        after = adapter
        if version["round"] is not None:
            here = [one for one in folded if (one["buffer"] or one["round"]) == version["round"]]
            own = [sent[one["update_id"]] for one in here if _is_sent(one, sent)]
            after = _mean(adapter, own, pool, base=base, refused=refused)
        yield version, after
        if version["status"] == "promoted":
            base, adapter = version["version"], after
        elif version["status"] == "rejected":
            refused.add(version["version"])


def _sent(journal: Path) -> dict[str, Entry]:
    return {entry.update_id: entry for entry in entries(journal) if entry.act == "sent"}


def _is_sent(told: dict[str, Any], sent: dict[str, Entry]) -> bool:
    entry = sent.get(told["update_id"])
    return entry is not None and (entry.device, entry.round) == (told["device"], told["round"])


def _mean(
    adapter: NDArray[np.float32], own: Sequence[Entry], pool: DeltaPool, *, base: int, refused: Collection[int]
) -> NDArray[np.float32]:
    """Return what the papers make of version ``base``, whose bytes are ``adapter``, and these updates."""
    total = np.zeros(adapter.size, np.float64)  # [n_params]
    ordered = sorted(own, key=lambda one: (one.device, one.round))
    for first in range(0, len(ordered), 64):  # in chunks (docs/adr/0025)
        part = np.zeros(adapter.size, np.float64)  # [n_params]
        for entry in ordered[first : first + 64]:
            # FedBuff (arXiv:2106.06639, algorithm 1): 1 / sqrt(1 + tau); in a round tau is 0.
            staleness = sum(one not in refused for one in range(entry.version + 1, base + 1))
            weight = entry.n_examples * (1.0 / math.sqrt(1.0 + staleness))
            part += pool.decoded(entry.delta).astype(np.float64) * weight
        total += part
    # FedAvg (arXiv:1602.05629, algorithm 1), in float64, in the order of device names.
    after: NDArray[np.float32] = (total / max(1, sum(one.n_examples for one in own)) + adapter).astype(np.float32)
    return after
