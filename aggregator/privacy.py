"""A task's privacy while it runs: may a round open, with which noise, and what it costs.

Laws: a round opens only if all that was spent and this round stay within the budget; what a fold costs is durable in
the database and in the spent file before the fold gives anything out, and where devices add the noise, before any of
them hears with whom to mask; noise is drawn once for a fixed set of updates and is never used for another
(docs/adr/0012). Does not fold (``core.privacy.central``) and does not run rounds
(``task_runner``).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from aggregator.core.privacy.central import AdaptiveTerms, CentralTerms, private_mean
from aggregator.core.privacy.ledger import LedgerEntry, Step, merged, steps_of
from aggregator.core.privacy.sampling import PoissonSampling
from host.logs import event
from protocol.discrete_gaussian import SEED_BYTES
from protocol.errors import ConfigError, StorageError
from protocol.secure_sum.noise_claim import claimed_multiplier

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aggregator.core.folding import State
    from aggregator.dp_settings import DpSettings
    from aggregator.ports import SpentRecord
    from aggregator.stored_fold import StoredRound
    from aggregator.task_setup import TaskSetup, World

__all__ = ["MAX_SAMPLED", "TaskPrivacy", "check_promise", "fold_privately", "task_privacy"]

# A budget is not refused for the accountant's last digits; 1e-6 is below its grid.
_SLACK: Final = 1e-6
# A remainder of the budget that pays for a round only with so many times the noise of before is not worth a round.
_WORTH: Final = 4.0
# A sampled round takes every device whose coin fell well: a full cohort would turn away one device for another's sake.
MAX_SAMPLED: Final = 10**9


def task_privacy(setup: TaskSetup, world: World) -> TaskPrivacy | None:
    """Return the keeper of the task's promise, or None if it makes none."""
    dp = setup.settings.privacy.dp
    return None if dp is None or setup.spent is None else TaskPrivacy(setup, world, dp=dp, spent_record=setup.spent)


def fold_privately(stored: StoredRound, state: State, entry: LedgerEntry, *, n_params: int) -> tuple[State, float]:
    """Return the strategy's next state from the round's noisy mean alone, and the next clip.

    Raises:
        StorageError: a blob is missing, or the noise is gone; nothing was folded.
    """
    if entry.noise_seed is None:
        raise StorageError(f"the noise of round {entry.round} was deleted after its fold")
    result = private_mean(stored, _terms(entry), n_params=n_params, seed=entry.noise_seed)
    return stored.fold_deltas(state, [(result.mean, 1)]), result.next_clip


def check_promise(task: str, told: Iterable[int], entries: Sequence[LedgerEntry], *, is_private: bool) -> None:
    """Refuse a task whose versions are partly folded with differential privacy and partly without.

    ``told`` are the rounds that were folded or are being folded.

    Raises:
        ConfigError: its settings changed so (the user's fault).
    """
    if entries and not is_private:
        raise ConfigError(
            f"task {task}: it was begun with [task.privacy.dp], which the configuration no longer has; put it back, "
            "or give the task a new id"
        )
    if is_private and not {one.round for one in entries}.issuperset(told):
        raise ConfigError(
            f"task {task}: it has versions that were folded without [task.privacy.dp]; give it a new task id"
        )


class TaskPrivacy:
    """Knows what was spent; ``resume`` first."""

    def __init__(self, setup: TaskSetup, world: World, *, dp: DpSettings, spent_record: SpentRecord) -> None:
        """Prepare; nothing is read before ``resume``."""
        self._settings, self._world, self._dp, self._record = setup.settings, world, dp, spent_record
        self._task, self._rate = setup.settings.id, dp.sampling_rate(setup.settings.cohort)
        self._spent: tuple[LedgerEntry, ...] = ()
        self._noise: float | None = None
        self._terms = setup.sum_terms if dp.mode == "distributed" else None
        self.sampling: PoissonSampling | None = None
        if dp.sampling == "poisson":
            self.sampling = PoissonSampling.of_key(setup.keys.of_round(1).raw, task=self._task, rate=self._rate)

    def resume(self) -> None:
        """Learn what was spent from both records, and make them agree.

        Raises:
            StorageError: one of them cannot be read or written.
        """
        known, witnessed = self._world.store.ledger(self._task), self._record.read()
        self._record.add(known)
        self._spent = merged(known, [one for one in witnessed if one.task == self._task])
        if len(self._spent) > len(known):
            event("privacy-restored", task=self._task, n_rounds=len(self._spent) - len(known))
        self._noise = None

    @property
    def can_open(self) -> bool:
        """Whether one more round stays within the budget."""
        noise = self._noise_multiplier()
        return noise is not None and self._epsilon(noise) <= self._dp.epsilon + _SLACK

    def no_budget(self) -> ConfigError:
        """Return the error of a task that cannot begin."""
        return ConfigError(
            f"task {self._task}: privacy.dp.epsilon = {self._dp.epsilon:g} does not pay for a round"
            + (f" after the {len(self._spent)} that were spent" if self._spent else "")
            + "; see edgefold privacy plan"
        )

    def entry(self, round_: int) -> LedgerEntry:
        """Return the cost of folding ``round_``, its noise freshly drawn; to be made durable before the fold.

        Raises:
            ConfigError: it is not within the budget, which was looked at before the round opened.
        """
        noise = self._noise_multiplier()
        if noise is None or not self.can_open:
            raise self.no_budget()
        cohort, adaptive = self._settings.cohort, self._dp.adaptive_terms(noise, self._settings.cohort)
        return LedgerEntry(
            entry_id=self._world.draw_secret(16).hex(),
            task=self._task,
            round=round_,
            noise_multiplier=noise,
            sampling_rate=self._rate,
            clip=self._clip(),
            count_noise=None if adaptive is None else adaptive.count_noise,
            quantile=None if adaptive is None else adaptive.quantile,
            rate=None if adaptive is None else adaptive.rate,
            initial_clip=self._dp.clip,
            cohort=cohort,
            delta=self._dp.delta,
            epsilon=self._epsilon(noise),
            epsilon_unsampled=self._epsilon(noise, sampling_rate=1.0),
            spent_unix_s=self._world.clock.unix_s(),
            noise_seed=None if self._terms is not None else self._world.draw_secret(SEED_BYTES),
        )

    def pay(self, round_: int) -> None:
        """Charge the round's secure sum, once, in both records: before its devices hear with whom to mask.

        Raises:
            ConfigError: it is not within the budget, which was looked at before the round opened.
            StorageError: it could not be kept; nothing may be sent.
        """
        if not self.is_paid(round_):
            self._world.store.charge(self.entry(round_))
        self.spend(round_)

    def is_paid(self, round_: int) -> bool:
        """Whether the ledger has the round."""
        return any(one.round == round_ for one in self._world.store.ledger(self._task))

    def spend(self, round_: int) -> LedgerEntry:
        """Return the round's entry after making sure that both records have it.

        Raises:
            StorageError: the database has none, or the file cannot be written.
        """
        known = self._world.store.ledger(self._task)
        found = [one for one in known if one.round == round_]
        if not found:
            raise StorageError(f"task {self._task}: round {round_} closes without an entry in the privacy ledger")
        self._record.add(known)
        self._spent = merged(known, self._spent)
        return found[0]

    # -- how ---------------------------------------------------------------------------------------------------------

    def _noise_multiplier(self) -> float | None:
        if self._terms is not None:
            return claimed_multiplier(self._terms)
        if self._dp.noise_multiplier is not None:
            return self._dp.noise_multiplier
        if self._noise is None:
            self._noise = self._solved()
            self._check_count_noise(self._noise)
        return self._noise

    def _check_count_noise(self, noise: float | None) -> None:
        adaptive = None if noise is None else self._dp.adaptive_terms(noise, self._settings.cohort)
        if noise is not None and adaptive is not None and noise >= 2 * adaptive.count_noise:
            raise ConfigError(
                f"task {self._task}: privacy.dp.adaptive.count_noise = {adaptive.count_noise:g} must be above half the "
                f"noise multiplier, {noise:g}"
            )

    def _solved(self) -> float | None:
        # Every fold has an entry, and so has a round that is about to be folded.
        n_left = max(1, self._settings.rounds - len(self._world.store.ledger(self._task)))
        last = self._spent[-1].noise_multiplier if self._spent else None
        # What was solved before, while it lasts: a restart changes nothing.
        if last is not None and self._epsilon(last, n_rounds=n_left) <= self._dp.epsilon + _SLACK:
            return last
        solved = self._world.accountant.noise(
            steps_of(self._spent),
            n_rounds=n_left,
            sampling_rate=self._rate,
            epsilon=self._dp.epsilon,
            delta=self._dp.delta,
        )
        return None if solved is not None and last is not None and solved > last * _WORTH else solved

    def _epsilon(self, noise: float, *, n_rounds: int = 1, sampling_rate: float | None = None) -> float:
        rate = self._rate if sampling_rate is None else sampling_rate
        steps: Sequence[Step] = steps_of(self._spent)
        if sampling_rate is not None:
            steps = [dataclasses.replace(one, sampling_rate=sampling_rate) for one in steps]
        more = Step(noise_multiplier=noise, sampling_rate=rate, count=n_rounds)
        return self._world.accountant.epsilon([*steps, more], delta=self._dp.delta)

    def _clip(self) -> float:
        if self._dp.adaptive is None:
            return self._dp.clip
        moved = [one.next_clip for one in self._world.store.ledger(self._task) if one.next_clip is not None]
        return moved[-1] if moved else self._dp.clip


def _terms(entry: LedgerEntry) -> CentralTerms:
    adaptive = None
    if entry.count_noise is not None and entry.quantile is not None and entry.rate is not None:
        adaptive = AdaptiveTerms(
            quantile=entry.quantile,
            rate=entry.rate,
            count_noise=entry.count_noise,
            initial_clip=entry.initial_clip,
        )
    return CentralTerms(
        clip=entry.clip, noise_multiplier=entry.noise_multiplier, cohort=entry.cohort, adaptive=adaptive
    )
