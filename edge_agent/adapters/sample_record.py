"""What this device's own examples have paid for by DP-SGD: one small file, written before a training begins.

    sample-spent.cbor    Renyi divergences of all trainings together, by order; for each task its last training

Laws: a training is charged whole before its first step, and once, however often it is begun again; what was charged is
never taken back, also if no update came of it; all tasks count together, since they are about the same examples; a file
that cannot be read stops the training instead of counting as empty. Orders that a later version adds were not counted
before, so only those that were always counted are used. Loads no numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Final

from edge_agent.adapters.example_views import file_of
from host.durable import make_folder, read_bytes, write_bytes
from protocol import cbor
from protocol.errors import ConfigError, MalformedMessageError, StorageError
from protocol.fields import FieldError, Length, Name, Range, plain, structure
from protocol.rdp import ORDERS, epsilon_from, rdp_of_steps

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from protocol.jobs import SampleCharge
    from protocol.plan import Plan

__all__ = ["SampleRecord", "why_beyond"]

_MAX_BYTES: Final = 1 << 22
_DEFAULT_DELTA: Final = 1e-5  # to show what was spent where the owner named none
_Figures = Annotated[tuple[Annotated[float, Range(0, 1e300)], ...], Length(0, 1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _DataStamp:
    """A data file's size and time of change: as long as both stay, its number of examples does."""

    n_bytes: Annotated[int, Range(0, 2**53)]
    changed_ns: Annotated[int, Range(0, 2**63 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Last:
    """The last training of a task: its id, empty where it was refused, and what it counted."""

    training_id: Annotated[bytes, Length(0, 16)]
    cost: _Figures  # of it alone, at the file's orders
    n_examples: Annotated[int, Range(1, 10**9)]
    data: _DataStamp


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    orders: _Figures = ()
    spent: _Figures = ()
    n_steps: Annotated[int, Range(0, 2**53)] = 0
    tasks: Annotated[dict[Name, _Last], Length(0, 10_000)] = field(default_factory=dict)


class SampleRecord:
    """Owner of ``sample-spent.cbor``; the agent reads it, a trainer charges."""

    def __init__(self, folder: Path) -> None:
        """Use the agent's folder; nothing is made before something is charged."""
        self._folder, self._path = folder, folder / "sample-spent.cbor"

    def epsilon(self, *, delta: float) -> float:
        """Return what all trainings together have cost any one example; 0 before the first.

        Raises:
            StorageError: the file is damaged.
        """
        return epsilon_from(self._spent(self._read()), delta=delta)

    def n_steps(self) -> int:
        """Return how many noisy steps were charged.

        Raises:
            StorageError: the file is damaged.
        """
        return self._read().n_steps

    def summary(self, *, max_epsilon: float | None, delta: float | None) -> str | None:
        """Return in one sentence what was spent, of what is allowed; None if neither is there.

        Raises:
            StorageError: the file is damaged.
        """
        n_steps, at = self.n_steps(), delta or _DEFAULT_DELTA
        if n_steps == 0 and max_epsilon is None:
            return None
        of = "no bound is set" if max_epsilon is None else f"of {max_epsilon:g} that privacy.max_sample_epsilon allows"
        return f"{n_steps} noisy steps, epsilon {self.epsilon(delta=at):.4g} at delta {at:g}, {of}"

    def epsilon_after(self, plan: Plan, *, task: str, data: Path, delta: float) -> float | None:
        """Return what ``epsilon`` would be after one more training of ``task``; None if its examples are not counted.

        Raises:
            StorageError: the file is damaged.
        """
        known = self._read()
        last = known.tasks.get(task)
        if last is None or last.data != _stamp_of(data):
            return None
        cost = _cost(plan, last.n_examples)
        return epsilon_from(_sum(self._spent(known), cost), delta=delta)

    def charge(self, terms: SampleCharge, plan: Plan, *, n_examples: int, data: Path) -> None:
        """Keep durably that a training of ``plan`` begins, and count its examples for the next question.

        Raises:
            ConfigError: it would cost more than the device's owner allows; nothing was charged.
            StorageError: the file is damaged or cannot be written; nothing may begin.
        """
        known, stamp = self._read(), _stamp_of(data)
        if stamp is None:
            raise ConfigError(f"{data}: no such data file")
        cost, spent, last = _cost(plan, n_examples), self._spent(known), known.tasks.get(terms.task)
        this = bytes.fromhex(terms.training_id)
        if (
            last is not None
            and last.training_id == this
            and last.cost == tuple(cost.get(order) for order in known.orders)
        ):
            return
        total = _sum(spent, cost)
        refusal = _refusal(terms, total)
        counted = _Last(
            training_id=b"" if refusal else this,
            cost=() if refusal else tuple(cost[order] for order in total),
            n_examples=n_examples,
            data=stamp,
        )
        if refusal and last is not None:  # the last one that was charged stays charged once
            counted = replace(counted, training_id=last.training_id, cost=last.cost)
        after = replace(known, tasks={**known.tasks, terms.task: counted})
        if not refusal:
            n_steps = known.n_steps + _n_steps(plan, n_examples)
            after = replace(after, orders=tuple(map(float, total)), spent=tuple(total.values()), n_steps=n_steps)
        make_folder(self._folder)
        write_bytes(self._path, cbor.dumps(plain(after)))
        if refusal:
            raise ConfigError(refusal)

    @staticmethod
    def _spent(known: _File) -> Mapping[float, float]:
        return dict(zip(known.orders, known.spent, strict=True))

    def _read(self) -> _File:
        try:
            found = structure(_File, cbor.loads(read_bytes(self._path, max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES))
        except FileNotFoundError:
            return _File()
        except (FieldError, MalformedMessageError) as error:
            raise self._damaged(error) from error
        if len(found.orders) != len(found.spent) or any(order <= 1 for order in found.orders):
            raise self._damaged(FieldError("spent: a figure for each order, all above 1"))
        if bool(found.n_steps) != any(found.spent) or (found.orders and not set(found.orders) & set(ORDERS)):
            raise self._damaged(FieldError("spent: nothing for its steps, or at orders that nobody knows"))
        return found

    def _damaged(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self._path}: damaged: {error}; restore it: without it this device's examples may be spent twice"
        )


def _stamp_of(data: Path) -> _DataStamp | None:
    """Return how the file stands now; None if it is not there."""
    try:
        found = file_of(data).stat()
    except OSError:
        return None
    return _DataStamp(n_bytes=found.st_size, changed_ns=found.st_mtime_ns)


def _n_steps(plan: Plan, n_examples: int) -> int:
    return plan.epochs * math.ceil(n_examples / plan.batch_size)


def _cost(plan: Plan, n_examples: int) -> dict[float, float]:
    """Return what one training costs by order; as ``trainer.private_steps`` draws and noises."""
    if plan.dp is None:
        raise ValueError("a plan without noise has no price")
    return rdp_of_steps(
        sampling_rate=min(1.0, plan.batch_size / n_examples),
        noise_multiplier=plan.dp.noise_multiplier,
        n_steps=_n_steps(plan, n_examples),
    )


def _sum(spent: Mapping[float, float], cost: Mapping[float, float]) -> dict[float, float]:
    """Return both together at the orders of both; where nothing was spent, at all orders of ``cost``."""
    return {order: spent.get(order, 0.0) + one for order, one in cost.items() if not spent or order in spent}


def why_beyond(epsilon: float, *, max_epsilon: float, delta: float) -> str | None:
    """Return why a training that would bring the account to ``epsilon`` is refused; None if it is not."""
    if epsilon <= max_epsilon:
        return None
    return (
        f"this device's examples: epsilon would be {epsilon:.4g} at delta {delta:g}, "
        f"privacy.max_sample_epsilon is {max_epsilon:g}"
    )


def _refusal(terms: SampleCharge, total: Mapping[float, float]) -> str | None:
    if terms.max_epsilon is None or terms.delta is None:
        return None
    return why_beyond(epsilon_from(total, delta=terms.delta), max_epsilon=terms.max_epsilon, delta=terms.delta)
