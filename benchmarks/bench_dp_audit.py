"""How much of a device can an attacker prove from private folds, against what the accountant claims?

The canary audit of ``dp_audit`` for several noise multipliers, for a task of one round and of four, and with the noise
all but switched off while the claim stays: the lower bound must stay under the claim with noise and rise far above it
without. TRIALS=N (environment) sets the number of trials with the canary and without.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Final

from aggregator.core.privacy.accounting import epsilon_of
from aggregator.core.privacy.central import CentralTerms
from aggregator.core.privacy.ledger import Step
from benchmarks.dp_audit import Audit, audit_fold
from benchmarks.record import Benchmark

TRIALS: Final = int(os.environ.get("TRIALS", "10000"))
N_PARAMS: Final = 64
DELTA: Final = 1e-5
CASES: Final = ((4.0, 1), (2.0, 1), (1.0, 1), (4.0, 4), (2.0, 4))  # noise multiplier, rounds
OFF: Final = 1e-5  # of a clip: ten steps of the grid


def main() -> None:
    """Measure and report."""
    bench = Benchmark("dp-audit", "How much of a device can an attacker prove from private folds?")
    drawn: list[tuple[str, float, float, float]] = []
    last: tuple[Audit, Audit] | None = None
    for noise_multiplier, n_rounds in CASES:
        claimed = epsilon_of([Step(noise_multiplier=noise_multiplier, sampling_rate=1.0, count=n_rounds)], delta=DELTA)
        terms = CentralTerms(clip=1.0, noise_multiplier=noise_multiplier, cohort=4)
        noisy = _audit(terms, n_rounds, seed=1)
        bare = _audit(dataclasses.replace(terms, noise_multiplier=OFF), n_rounds, seed=2)
        last = noisy, bare
        name = f"z{noise_multiplier:g}_rounds{n_rounds}"
        bench.summary[f"{name}_epsilon_claimed"] = claimed
        bench.summary[f"{name}_epsilon_proven_from_below"] = noisy.epsilon_lower
        bench.summary[f"{name}_epsilon_without_noise"] = bare.epsilon_lower
        bench.goals[f"{name}_epsilon_proven_from_below"] = (0.05 * claimed, claimed)
        drawn.append((f"z = {noise_multiplier:g}\n{n_rounds} rounds", claimed, noisy.epsilon_lower, bare.epsilon_lower))
    weakest = min(bare / claimed for _, claimed, _, bare in drawn if claimed < 3)
    bench.summary["without_noise_over_claim_where_claim_is_below_3"] = weakest
    bench.goals["without_noise_over_claim_where_claim_is_below_3"] = (2.0, float("inf"))
    bench.details |= {"n_trials": TRIALS, "n_params": N_PARAMS, "delta": DELTA, "confidence": 0.95}
    bench.finish(lambda figure: _draw(figure, drawn, last))


def _audit(terms: CentralTerms, n_rounds: int, *, seed: int) -> Audit:
    return audit_fold(terms, n_rounds=n_rounds, n_trials=TRIALS, n_params=N_PARAMS, delta=DELTA, seed=seed)


def _draw(figure: Any, drawn: list[tuple[str, float, float, float]], last: tuple[Audit, Audit] | None) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    bars, histogram = figure.subplots(1, 2)
    at = range(len(drawn))
    for offset, column, label in ((-0.27, 1, "claimed"), (0.0, 2, "proven from below"), (0.27, 3, "... without noise")):
        bars.bar([x + offset for x in at], [one[column] for one in drawn], width=0.25, label=label)
    bars.set_xticks(list(at), [one[0] for one in drawn])
    bars.set(ylabel="epsilon")
    bars.legend(frameon=False)
    if last is not None:
        noisy = last[0]
        histogram.hist([noisy.statistics_out, noisy.statistics_in], bins=40, label=["without canary", "with canary"])
        histogram.set(xlabel="component along the canary, in clips", ylabel="trials")
        histogram.legend(frameon=False)


if __name__ == "__main__":
    main()
