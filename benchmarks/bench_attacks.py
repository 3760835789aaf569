"""How often is an attacker right about a device's sentences, by what it sees of a round?

The attacks of ``attacks`` on real sentences through a real encoder (MiniLM), for what the aggregator sees at level
``sealed``, for a secure sum, for one whose devices add the noise, for a version with central noise, and for
DP-SGD. TRIALS=N and SENTENCES=N (environment) set the size.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aggregator.core.privacy.accounting import epsilon_of as device_epsilon
from aggregator.core.privacy.ledger import Step
from benchmarks.attacks import N_CLASSES, Case, Pool, Rates, attack, sum_plan, sum_spec
from benchmarks.record import Benchmark
from models.samples import sample_folder
from models.sentiment import fetch_sentiment, write_splits
from protocol.plan import Optimizer, SampleDp
from protocol.rdp import epsilon_of as example_epsilon
from protocol.secure_sum.distributed_noise import privacy_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRIALS: Final = int(os.environ.get("TRIALS", "1000"))
SENTENCES: Final = int(os.environ.get("SENTENCES", "600"))
DELTA: Final = 1e-3
_STEP: Final = Step(noise_multiplier=1.0, sampling_rate=1.0)
_MAX_TOKENS: Final = 32
_BATCH: Final = 32
CASES: Final = {
    "sealed_1_example": Case(view="update", n_examples=1),
    "sealed_16_examples": Case(view="update", n_examples=16),
    "sealed_16_examples_adamw": Case(view="update", n_examples=16, optimizer=Optimizer()),
    "sum_of_10_devices": Case(view="sum", n_examples=16, n_devices=10),
    "central_of_10_z0.1": Case(view="central", n_examples=16, n_devices=10, noise_multiplier=0.1),
    "central_of_10_z1": Case(view="central", n_examples=16, n_devices=10, noise_multiplier=1.0),
    "noisy_sum_of_10_z0.1": Case(view="noisy-sum", n_examples=16, n_devices=10, noise_multiplier=0.1),
    "noisy_sum_of_10_z1": Case(view="noisy-sum", n_examples=16, n_devices=10, noise_multiplier=1.0),
    "dp_sgd_z1": Case(view="update", n_examples=16, dp=SampleDp(clip=1.0, noise_multiplier=1.0)),
}


def main() -> None:
    """Measure and report."""
    bench = Benchmark("attacks", "How often is an attacker right about a device's sentences?")
    pool = _pool()
    found = {name: attack(pool, case, n_trials=TRIALS, seed=1) for name, case in CASES.items()}
    for name, rates in found.items():
        bench.summary[f"{name}_identified_share"] = rates.identified
        bench.summary[f"{name}_identified_by_chance_share"] = rates.identified_by_chance
        bench.summary[f"{name}_membership_auc"] = rates.membership_auc
        bench.summary[f"{name}_membership_recall_at_5pct_false_alarms"] = rates.membership_recall
    bench.summary["central_of_10_z1_epsilon_of_a_device"] = device_epsilon([_STEP], delta=DELTA)
    bench.summary["noisy_sum_of_10_z1_epsilon_of_a_device"] = _epsilon_of_sum(CASES["noisy_sum_of_10_z1"], pool)
    dp = CASES["dp_sgd_z1"]
    bench.summary["dp_sgd_z1_epsilon_of_an_example"] = example_epsilon(
        sampling_rate=dp.batch_size / dp.n_examples,
        noise_multiplier=1.0,
        n_steps=dp.n_examples // dp.batch_size,
        delta=DELTA,
    )
    # The attacks must work where nothing defends, or the other rows would say nothing.
    bench.goals["sealed_1_example_identified_share"] = (0.9, 1.0)
    # No attack on a Gaussian of z clips has an AUC above Phi(1 / (z sqrt 2)).
    for name in ("central_of_10_z1", "noisy_sum_of_10_z1"):
        bench.goals[f"{name}_membership_auc"] = (0.4, NormalDist().cdf(1 / math.sqrt(2)))
    bench.goals["dp_sgd_z1_membership_auc"] = (0.4, 0.65)
    bench.details |= {
        "n_trials": TRIALS,
        "n_sentences": len(pool),
        "max_tokens": _MAX_TOKENS,
        "cohort": 10,
        "delta": DELTA,
    }
    bench.finish(lambda figure: _draw(figure, found))


def _epsilon_of_sum(case: Case, pool: Pool) -> float:
    """Return what one such sum costs a device, with every drop-out that its terms allow."""
    plan = sum_plan(case, n_params=N_CLASSES * (pool.features.shape[1] + 1), clip=1.0)
    return privacy_of(plan, sum_spec(plan), n_sums=1, delta=DELTA)


def _pool() -> Pool:
    """Return real sentences of four kinds, as the pooled outputs of MiniLM."""
    per_domain = -(-SENTENCES // 4)
    splits = write_splits(
        fetch_sentiment(Path(".cache/sentiment")), Path("out/data/attacks"), n_train=per_domain, n_test=1
    )
    lines = [line for path in splits.train.values() for line in path.read_text("utf-8").splitlines()]
    examples = [json.loads(line) for line in lines][:SENTENCES]
    features = _encoded([one["text"] for one in examples])
    return Pool(features=features, labels=np.array([one["label"] for one in examples], np.int64))


def _encoded(texts: list[str]) -> NDArray[np.float32]:
    import torch  # noqa: PLC0415 - only this step needs it
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415

    folder = str(sample_folder("minilm"))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            batch = texts[start : start + _BATCH]
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt")
            rows.append(model(**tokens).pooler_output.numpy())
    return np.concatenate(rows).astype(np.float32)


def _draw(figure: Any, found: dict[str, Rates]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    named, membership = figure.subplots(1, 2)
    names = [name.replace("_", " ") for name in found]
    named.barh(names, [one.identified for one in found.values()])
    named.scatter(
        [one.identified_by_chance for one in found.values()], names, color="black", marker="|", label="chance"
    )
    named.set(xlabel="a sentence of the victim's was named", xlim=(0, 1))
    named.legend(frameon=False)
    membership.barh(names, [one.membership_auc for one in found.values()])
    membership.axvline(0.5, color="black", linewidth=0.8)
    membership.set(xlabel="membership AUC (chance 0.5)", xlim=(0.4, 1), yticks=[])


if __name__ == "__main__":
    main()
