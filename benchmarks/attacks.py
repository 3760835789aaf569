"""Two attacks on what somebody sees of a round: which sentence was in it (inversion), and was this one (membership).

The victim trains a classification head, the one part of an adapter whose gradient can be inverted in closed form, with
the device's own loops (``edge_agent.trainer``); what is seen is made by the service's own code (``private_mean``) and
the secure sum's own quantiser and noise. The attacker knows the head before the round, the encoder, and a pool of
sentences that holds the victim's.

Laws: an attack sees a view and never what made it. Chance is stated beside every rate. Not covered: attacks that
optimise over inputs through the encoder, attackers of several rounds; both are stronger than these.

Source:
    Inversion: Phong, Aono, Hayashi, Wang, Moriai 2018, Privacy-Preserving Deep Learning via Additively Homomorphic
    Encryption, doi:10.1109/TIFS.2017.2787987, section 3: a linear layer's weight gradient is its input times its
    bias gradient. Membership: Nasr, Shokri, Houmansadr 2019, arXiv:1812.00910, reduced to one score: the cosine of the
    update and the candidate's own descent direction.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from aggregator.core.privacy.central import CentralTerms, private_mean
from edge_agent.trainer.batches import shuffled_batches
from edge_agent.trainer.example_gradients import OneByOne
from edge_agent.trainer.optimizers import clip_norm, l2_norm, make_optimizer
from edge_agent.trainer.private_steps import PrivateEpochs
from protocol.plan import Optimizer, Plan, SampleDp
from protocol.secure_sum.distributed_noise import noised, with_room
from protocol.secure_sum.graph import choose
from protocol.secure_sum.messages import SumPlan
from protocol.secure_sum.quantise import Quantiser
from protocol.secure_sum.roster import quantiser_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from protocol.secure_sum.graph import GraphSpec

__all__ = ["N_CLASSES", "Case", "Pool", "Rates", "attack", "sum_plan", "sum_spec"]

N_CLASSES: Final = 2
View: TypeAlias = Literal["update", "sum", "noisy-sum", "central"]
_SGD: Final = Optimizer(name="sgd", learning_rate=0.1, beta1=0.0, weight_decay=0.0)
_FALSE_ALARMS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Sentences as the encoder's outputs, float32 [n, width], and labels, int64 [n]; the attacker has all of it."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.labels)

    def of(self, rows: NDArray[np.int64]) -> Pool:
        """Return some of them."""
        return Pool(features=self.features[rows], labels=self.labels[rows])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return what each weighs in a batch, int64 [n]."""
        return np.ones(len(self), np.int64)

    def batch(self, rows: Sequence[int] | NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return ``rows`` as the head's inputs."""
        return {"features": self.features[rows], "labels": self.labels[rows]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is seen of a round: a device's ``update``, a ``sum`` of devices, one with shares of noise, or a version."""

    view: View
    n_examples: int
    n_devices: int = 1
    noise_multiplier: float = 0.0  # of the version (``central``) or the sum (``noisy-sum``)
    dp: SampleDp | None = None  # on the device
    optimizer: Optimizer = _SGD
    batch_size: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often the attacks are right, and how often somebody would be who guesses."""

    identified: float  # the sentence that was named is one of the victim's
    identified_by_chance: float
    membership_auc: float  # 0.5 by chance
    membership_recall: float  # of members, at 5 % false alarms; 0.05 by chance


class _Head:
    """A linear classifier on given features, as an engine."""

    def loss_and_gradient(
        self, theta: NDArray[np.float32], batch: Mapping[str, NDArray[Any]]
    ) -> tuple[float, NDArray[np.float32]]:
        """Return cross-entropy and its gradient, float32 [n_params]."""
        features, labels = batch["features"].astype(np.float64), batch["labels"]
        n, width = features.shape
        weights = theta[: N_CLASSES * width].reshape(N_CLASSES, width)
        logits = features @ weights.T + theta[N_CLASSES * width :]  # [n, classes]
        logits -= logits.max(1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        loss = -np.log(p[np.arange(n), labels]).mean()
        p[np.arange(n), labels] -= 1
        gradient = np.concatenate([(p.T @ features).ravel(), p.sum(0)]) / n
        return float(loss), gradient.astype(np.float32)

    def scores(self, _theta: NDArray[np.float32], _batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Return nothing: no attack here asks."""
        return {}


def attack(pool: Pool, case: Case, *, n_trials: int, seed: int) -> Rates:
    """Return how well both attacks do against ``case``; half of the trials have the candidate in, half do not."""
    rng, theta = np.random.default_rng(seed), _start(pool, seed)
    hits, inside, outside = 0, list[float](), list[float]()
    for trial in range(n_trials):
        rows = rng.permutation(len(pool))[: case.n_examples * case.n_devices + 1]
        candidate, rows = rows[0], rows[1:].copy()
        is_member = trial % 2 == 0
        if is_member:
            rows[0] = candidate
        seen = _seen(pool, case, rows, theta, rng)
        hits += _named(seen, pool) in rows[: case.n_examples]
        (inside if is_member else outside).append(_score(seen, pool, theta, candidate))
    threshold = np.quantile(outside, 1 - _FALSE_ALARMS)
    wins = np.subtract.outer(inside, outside)
    return Rates(
        identified=hits / n_trials,
        identified_by_chance=case.n_examples / len(pool),
        membership_auc=float((wins > 0).mean() + (wins == 0).mean() / 2),
        membership_recall=float((np.array(inside) > threshold).mean()),
    )


def _start(pool: Pool, seed: int) -> NDArray[np.float32]:
    width = pool.features.shape[1]
    start = np.random.default_rng(seed + 1).normal(0, 0.02, N_CLASSES * (width + 1))
    return start.astype(np.float32)


def _seen(
    pool: Pool, case: Case, rows: NDArray[np.int64], theta: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return what the attacker sees, float64 [n_params]; the first ``n_examples`` rows are the victim's."""
    shares = rows.reshape(case.n_devices, case.n_examples)
    deltas = [_delta(pool.of(one), case, theta, seed=rng.bytes(32)) for one in shares]
    match case.view:
        case "update":
            return deltas[0].astype(np.float64)
        case "sum":
            quantiser = Quantiser(n_params=theta.size, clip=1.0, weight_cap=1, input_bits=16, max_cohort=case.n_devices)
            total = np.zeros(theta.size + 1, np.uint32)
            for delta in deltas:
                total += quantiser.encode(np.clip(delta, -1, 1), 1)
            return quantiser.decode(total & quantiser.mask).mean
        case "noisy-sum":
            return _noisy_sum(deltas, case, rng)
        case "central":
            clip = float(np.median([l2_norm(one) for one in deltas]))
            terms = CentralTerms(clip=clip, noise_multiplier=case.noise_multiplier, cohort=case.n_devices)
            folded = private_mean(((one, 1) for one in deltas), terms, n_params=theta.size, seed=rng.bytes(32))
            return folded.mean.astype(np.float64)


def sum_plan(case: Case, *, n_params: int, clip: float) -> SumPlan:
    """Return the plan of ``case``'s sums as a task with ``mode = "distributed"`` has it.

    Raises:
        ConfigError: no noise is sure with so few devices.
    """
    facts: dict[str, Any] = {"fleet": "any", "task": "any", "round": 1, "version": 0, "weight_cap": 1, "clip": clip}
    facts |= {"min_cohort": case.n_devices, "max_cohort": case.n_devices, "n_params": n_params}
    return with_room(SumPlan(**facts), case.noise_multiplier)


def sum_spec(plan: SumPlan) -> GraphSpec:
    """Return the graph of a sum in which everybody takes part."""
    fractions = {"corrupt_fraction": plan.corrupt_fraction, "dropout_fraction": plan.dropout_fraction}
    return choose(plan.max_cohort, **fractions, server=plan.server)


def _noisy_sum(deltas: list[NDArray[np.float32]], case: Case, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean that a secure sum gives when each device clips and noises its own levels."""
    clip = float(np.median([l2_norm(one) for one in deltas]))
    plan = sum_plan(case, n_params=deltas[0].size, clip=clip)
    quantiser, share = quantiser_of(plan), functools.partial(noised, plan=plan, spec=sum_spec(plan))
    total = np.zeros(plan.n_params + 1, np.uint32)
    for delta in deltas:
        seed = rng.bytes(32)
        total += quantiser.with_noise(quantiser.encode(clip_norm(delta, clip), 1), lambda one, s=seed: share(one, s))
    return quantiser.decode(total & quantiser.mask).mean


def _delta(data: Pool, case: Case, theta: NDArray[np.float32], *, seed: bytes) -> NDArray[np.float32]:
    """Train one epoch as a device does."""
    plan = Plan(epochs=1, batch_size=case.batch_size, optimizer=case.optimizer, dp=case.dp)
    engine, local = _Head(), theta.copy()
    if case.dp is not None:
        alone = OneByOne(engine, data, clip=case.dp.clip)
        return PrivateEpochs(plan, case.dp, data, lambda _: None, seed=seed).run(alone, theta) - theta
    optimizer = make_optimizer(plan.optimizer, theta.size)
    rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    for batch in shuffled_batches(data, batch_size=case.batch_size, rng=rng):
        _, gradient = engine.loss_and_gradient(local, batch)
        optimizer.step(local, clip_norm(gradient, plan.clip_grad_norm))
    return local - theta


def _named(seen: NDArray[np.float64], pool: Pool) -> int:
    """Return the sentence whose features are nearest to what the head's change says."""
    width = pool.features.shape[1]
    weights, biases = seen[: N_CLASSES * width].reshape(N_CLASSES, width), seen[N_CLASSES * width :]
    # dW = -sum r h^T and db = -sum r, r the residual: with two classes the difference of the rows has all of it.
    change, bias = weights[1] - weights[0], biases[1] - biases[0]
    # All sentences have much in common, which a whole epoch's change is mostly made of: bias times the mean of it.
    mean = pool.features.mean(0, dtype=np.float64)
    own = pool.features - mean
    cosines = own @ (change - bias * mean) / np.linalg.norm(own, axis=1)
    return int(np.argmax(cosines * np.where(pool.labels == 1, 1, -1)))


def _score(seen: NDArray[np.float64], pool: Pool, theta: NDArray[np.float32], candidate: int) -> float:
    """Return the cosine of what is seen and the candidate's own descent, both without what all sentences share."""
    _, gradient = _Head().loss_and_gradient(theta, pool.batch([candidate]))
    same = pool.of(np.flatnonzero(pool.labels == pool.labels[candidate]))
    _, common = _Head().loss_and_gradient(theta, same.batch(list(range(len(same)))))
    own = common.astype(np.float64) - gradient
    return float(own @ seen / (np.linalg.norm(own) * np.linalg.norm(seen) + 1e-300))
