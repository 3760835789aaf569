"""What the demo's fleet promises its devices: settings of the task and the devices, and what is shown at the end.

Laws: figures come from `edgefold privacy`, as an operator would ask for them; nothing here computes one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from deploy.local import LocalFleet

__all__ = ["Level", "Mode", "Promise"]

Level: TypeAlias = Literal["sealed", "secure-sum"]
Mode: TypeAlias = Literal["central", "distributed"]

# Four devices are a fleet that no delta suits; the clip is below the norm of an update of 31 AdamW steps.
_DELTA: Final = 1e-3
_CLIP: Final = 1.0
_DROPOUT: Final = 0.25  # one of four
_CORRUPT: Final = 0.05
# The claim leaves a little of the multiplier away (``protocol.secure_sum.noise_claim``), the plan's search stops near.
_ROOM: Final = 1.001
# Adapters' deltas of one epoch lie below 0.02 here, so a clip of 0.1 cuts nothing and makes levels of 3e-6.
_SECURE_SUM: Final[dict[str, Any]] = {"clip": 0.1, "weight_cap": 2000, "input_bits": 16, "dropout_fraction": _DROPOUT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """The demo's privacy: a level and, where ``mode`` is set, differential privacy with the budget ``epsilon``.

    Attributes:
        level: of the task; distributed noise needs secure sums, central noise single updates.
        mode: who adds the noise; None: nobody.
        epsilon: of all rounds; used with a mode alone.
    """

    level: Level
    mode: Mode | None = None
    epsilon: float = 8.0

    @property
    def has_exact_sums(self) -> bool:
        """Whether versions are exactly the quantised sums of what the devices keep for the comparison."""
        return self.level == "secure-sum" and self.mode is None

    def fleet_fields(self, *, n_devices: int, rounds: int, n_params: int) -> dict[str, Any]:
        """Return the fields of ``deploy.local.FleetSpec`` for it.

        Raises:
            ConfigError: no noise multiplier was found for this budget.
        """
        if self.level == "sealed":
            dp = {} if self.mode is None else {"dp": self._dp()}
            return {"privacy": dp} if dp else {}
        sums: dict[str, Any] = {"level": "secure-sum", "secure_sum": _SECURE_SUM}
        device: dict[str, Any] = {"require": "secure-sum"}
        if self.mode is None:
            device["keep_deltas"] = True  # what the devices put in, for the comparison alone
        else:
            plan = json.loads(_privacy("plan", *self._plan(n_devices, rounds, n_params), "--json", is_shown=False))
            noise_multiplier = _ROOM * plan["sums"]["noise_multiplier"]
            sums["secure_sum"] = {"dropout_fraction": _DROPOUT, "corrupt_fraction": _CORRUPT}
            sums["dp"] = {**self._dp(), "noise_multiplier": noise_multiplier}
        return {"min_cohort": 3, "privacy": sums, "device_privacy": device}

    def __str__(self) -> str:
        """Return it for the report."""
        return self.level if self.mode is None else f"{self.level}, {self.mode} DP with epsilon {self.epsilon:g}"

    def show(self, fleet: LocalFleet, *, n_params: int) -> None:
        """Print the ledger, and why four devices cannot learn under it; nothing without a mode."""
        if self.mode is not None:
            _privacy("ledger", fleet.spec.task, "--config", str(fleet.aggregator_config), is_shown=True)
            _privacy("plan", *self._plan(len(fleet.spec.devices), fleet.spec.rounds, n_params), is_shown=True)

    def _dp(self) -> dict[str, Any]:
        return {"mode": self.mode, "delta": _DELTA, "clip": _CLIP, "epsilon": self.epsilon}

    def _plan(self, n_devices: int, rounds: int, n_params: int) -> list[str]:
        facts = {"clients": n_devices, "cohort": n_devices, "rounds": rounds, "epsilon": self.epsilon}
        facts |= {"delta": _DELTA, "params": n_params}
        options = [text for name, value in facts.items() for text in (f"--{name}", str(value))]
        if self.mode == "distributed":
            return [*options, "--distributed", "--corrupt", str(_CORRUPT), "--dropout", str(_DROPOUT)]
        return [*options, "--sampling", "none"]


def _privacy(*arguments: str, is_shown: bool) -> str:
    """Run ``edgefold privacy`` and return what it printed, if that is not shown."""
    command = [sys.executable, "-m", "edgefold", "privacy", *arguments]
    done = subprocess.run(command, check=False, capture_output=not is_shown, text=True)
    if done.returncode != 0:
        raise ConfigError(
            f"edgefold privacy {arguments[0]} ended with exit code {done.returncode}: {done.stderr or ''}"
        )
    return done.stdout or ""
