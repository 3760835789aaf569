"""What the federated model is held against: no training, each device alone, all data in one place.

Every contender gets the same initial adapter, optimiser, batch size and number of epochs, and runs through the same
trainer process; nothing is tuned for one of them alone.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from host.arrays import load_vector
from host.durable import make_folder, read_bytes, write_bytes
from host.trainer_process import run_job
from protocol import codec
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.bundle import ADAPTER
from protocol.jobs import UPDATE_FILE, EvaluateJob, SetResult, TrainJob
from protocol.plan import Codec, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console

    from host.bundle_folder import Bundle
    from models.sentiment import Splits

__all__ = ["Baselines", "Scores", "measure_baselines", "train_and_evaluate"]

_DEADLINE_S: Final = 3600.0
_FLOAT32: Final = Codec(name="float32")


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracy, as a fraction, on each set and on all of them together."""

    sets: Mapping[str, float]
    pooled: float

    @classmethod
    def of(cls, results: Mapping[str, SetResult]) -> Scores:
        """Return the scores of one evaluation."""
        n_correct = sum(one.n_correct for one in results.values())
        n_examples = sum(one.n_examples for one in results.values())
        return cls({name: one.n_correct / one.n_examples for name, one in results.items()}, n_correct / n_examples)


@dataclass(frozen=True, slots=True)
class Baselines:
    """The scores of each domain's device alone, and of all data in one place."""

    alone: Mapping[str, Scores]
    centralised: Scores

    @property
    def alone_mean(self) -> float:
        """Pooled accuracy of the devices alone, averaged over the devices."""
        return sum(one.pooled for one in self.alone.values()) / len(self.alone)


def measure_baselines(
    bundle: Bundle, splits: Splits, *, plan: Plan, epochs: int, folder: Path, console: Console
) -> Baselines:
    """Train and evaluate each device alone and the pooled data; two at a time."""
    pooled = make_folder(folder) / "pooled.jsonl"
    write_bytes(pooled, _interleave([path.read_bytes().splitlines() for path in splits.train.values()]))
    contenders = {**splits.train, "all data in one place": pooled}
    long_plan = replace(plan, epochs=epochs, codec=_FLOAT32)

    def measure(name: str) -> Scores:
        scores = train_and_evaluate(
            bundle, contenders[name], splits.test, plan=long_plan, folder=make_folder(folder / name.replace(" ", "-"))
        )
        console.print(f"  {name:<24} pooled accuracy {scores.pooled:.3f}")
        return scores

    with ThreadPoolExecutor(2, thread_name_prefix="baseline") as pool:
        scores = dict(zip(contenders, pool.map(measure, contenders), strict=True))
    centralised = scores.pop("all data in one place")
    return Baselines(scores, centralised)


def train_and_evaluate(bundle: Bundle, data: Path, sets: Mapping[str, Path], *, plan: Plan, folder: Path) -> Scores:
    """Train from the bundle's initial adapter on ``data`` and return the scores on ``sets``."""
    train = TrainJob(bundle=str(bundle.folder), data=str(data), out=str(folder), plan=plan)
    run_job(train, deadline_s=_DEADLINE_S)
    n_params = bundle.layout.n_params
    delta = codec.decode(read_bytes(folder / UPDATE_FILE, max_bytes=MAX_MESSAGE_BYTES), n_values=n_params)
    adapter = load_vector(bundle.path(ADAPTER), n_values=n_params) + delta
    write_bytes(folder / "adapter.payload", codec.encode(adapter, _FLOAT32))
    evaluate = EvaluateJob(
        bundle=str(bundle.folder),
        sets={name: str(path) for name, path in sets.items()},
        adapter=str(folder / "adapter.payload"),
        max_tokens=plan.max_tokens,
    )
    return Scores.of(run_job(evaluate, deadline_s=_DEADLINE_S).sets)


def _interleave(files: list[list[bytes]]) -> bytes:
    """Return the lines of all files in turn, so that any prefix has a bit of each."""
    lines = (line for row in itertools.zip_longest(*files) for line in row if line is not None)
    return b"\n".join(lines) + b"\n"
