"""Compares a fleet's secure sums with the plain fold of the same deltas, which its devices kept for that purpose.

Two statements about each version. *Exact*: quantising the kept deltas and adding integers gives the version's very
bytes, so the masks cancelled and nothing was lost. *Close*: the version differs from the plain weighted mean in float64
by no more than the stated quantisation (``Quantiser.error_bound``) and one rounding to float32.

Laws: reads the fleet's files and ``edgefold task show`` as an operator could; needs ``privacy.keep_deltas`` on every
device, which no real fleet should have. Which devices fell out is not known from outside, so all choices are tried:
for small fleets.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from protocol.errors import ConfigError
from protocol.secure_sum.quantise import Quantiser

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from deploy.local import LocalFleet

__all__ = ["KeptDelta", "SumCheck", "compare_sums", "kept_deltas"]

_FLOAT32_ULP: Final = 2.0**-23
_DEADLINE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDelta:
    """What one device put into one round's sum; ``vector`` float32 [n_params]."""

    device: str
    round: int
    weight: int
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SumCheck:
    """One version: whether it is exactly the quantised sum, and how far from the plain fold (largest |difference|)."""

    version: int
    devices: tuple[str, ...]
    is_exact: bool
    largest_difference: float
    bound: float

    @property
    def is_good(self) -> bool:
        """Whether both statements hold."""
        return self.is_exact and self.largest_difference <= self.bound


def kept_deltas(fleet: LocalFleet) -> list[KeptDelta]:
    """Return every delta that the fleet's devices kept."""
    found = []
    for device in fleet.spec.devices:
        for path in sorted((fleet.spec.folder / "devices" / device / "state" / "deltas").glob("*.f32")):
            round_, weight = map(int, path.stem.split(".")[-2:])
            vector = np.fromfile(path, "<f4").astype(np.float32)  # [n_params]
            found.append(KeptDelta(device=device, round=round_, weight=weight, vector=vector))
    return found


def compare_sums(fleet: LocalFleet) -> list[SumCheck]:
    """Return what was found for each folded version.

    Raises:
        ConfigError: the fleet's history cannot be read, or a device kept nothing.
    """
    shown, kept = _shown(fleet), kept_deltas(fleet)
    versions, terms = shown["versions"], shown["secure_sum"]
    if terms is None:
        raise ConfigError(f"task {fleet.spec.task} makes no secure sums: privacy.level is not secure-sum")
    blobs = fleet.spec.folder / "aggregator" / "state" / "blobs"
    checks = []
    for before, this in itertools.pairwise(versions):
        of_round = [one for one in kept if one.round == this["round"]]
        if len(of_round) < this["n_updates"]:
            raise ConfigError(f"round {this['round']}: {len(of_round)} deltas were kept, {this['n_updates']} summed")
        old, new = (_adapter(blobs, one) for one in (before, this))
        choices = itertools.combinations(of_round, this["n_updates"])
        tried = [_check(this["version"], choice, old, new, _quantiser(terms, old.size)) for choice in choices]
        checks.append(next((one for one in tried if one.is_exact), tried[0]))
    return checks


def _check(
    version: int,
    deltas: tuple[KeptDelta, ...],
    old: NDArray[np.float32],
    new: NDArray[np.float32],
    quantiser: Quantiser,
) -> SumCheck:
    total = np.zeros(quantiser.n_values, np.uint32)  # [n_params + 1]
    for one in deltas:
        total += quantiser.encode(one.vector, one.weight)
    exact = quantiser.decode(total & quantiser.mask)
    mean = exact.mean.astype(np.float32)
    # Federated averaging of one mean, in the arithmetic of its fold.
    folded = (np.multiply(mean, exact.weight, dtype=np.float64) / exact.weight + old).astype(np.float32)
    weight = sum(one.weight for one in deltas)
    plain = sum((one.vector.astype(np.float64) * one.weight for one in deltas), np.zeros(old.size)) / weight + old
    difference = float(np.abs(new - plain).max())
    rounding = 2 * _FLOAT32_ULP * float(np.abs(plain).max())
    return SumCheck(
        version=version,
        devices=tuple(one.device for one in deltas),
        is_exact=folded.tobytes() == new.tobytes(),
        largest_difference=difference,
        bound=quantiser.error_bound(n=len(deltas), weight=weight) + rounding,
    )


def _quantiser(terms: Mapping[str, Any], n_params: int) -> Quantiser:
    return Quantiser(
        n_params=n_params,
        clip=float(terms["clip"]),
        weight_cap=int(terms["weight_cap"]),
        input_bits=int(terms["input_bits"]),
        max_cohort=int(terms["max_cohort"]),
    )


def _adapter(blobs: Path, version: dict[str, Any]) -> NDArray[np.float32]:
    return np.fromfile(blobs / version["state_blobs"]["adapter"], "<f4").astype(np.float32)  # [n_params]


def _shown(fleet: LocalFleet) -> dict[str, Any]:
    command = ["task", "show", fleet.spec.task, "--config", str(fleet.aggregator_config), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgefold", *command], capture_output=True, text=True, timeout=_DEADLINE_S, check=False
    )
    if done.returncode != 0:
        raise ConfigError(f"edgefold task show: {done.stderr.strip().splitlines()[-1:]}")
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown
