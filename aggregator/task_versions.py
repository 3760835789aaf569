"""One task's versions: the first one, what is in each, what devices are sent of it, and that it is the same task.

Laws: the store is the truth; what is kept here is the newest broadcast payload alone. Memory: that payload, O(adapter).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.core.folding import ADAPTER, StrategyConfig
from aggregator.core.records import RoundRecord, TaskRecord, VersionRecord
from aggregator.sealed_adapter import sealed_adapter
from aggregator.vectors import broadcast_payload, load_state, save_state
from host.arrays import load_vector
from protocol.bundle import ADAPTER as ADAPTER_FILE
from protocol.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aggregator.core.folding import State
    from aggregator.core.intake import Admitted
    from aggregator.task_setup import TaskSetup, World

__all__ = ["TaskVersions"]


class TaskVersions:
    """The versions of one task; both of its lives, by rounds and by buffers, work on them."""

    def __init__(self, setup: TaskSetup, world: World) -> None:
        """Prepare; nothing is read or written yet."""
        self._setup, self._world, self._task = setup, world, setup.settings.id
        self._payload: tuple[int, bytes] | None = None  # version and its encoded adapter

    def begin(self, first_round: RoundRecord) -> None:
        """Keep the new task with the bundle's own adapter as version 0, and its first round.

        Raises:
            StorageError: it could not be kept.
        """
        bundle = self._setup.bundle
        initial = load_vector(bundle.path(ADAPTER_FILE), n_values=self._setup.n_params)
        config = StrategyConfig(initial_adapter=initial, options=self._setup.options)
        state = self._setup.strategy.init(bundle.layout, config)
        identity = self._setup.strategy_identity
        task = TaskRecord(task=self._task, bundle_id=bundle.id, strategy=identity, state="open")
        self._world.store.add_task(task, self.record(0, state, round_=None, n_updates=0), first_round)

    def new_round(self, number: int, *, version: int) -> RoundRecord:
        """Return a round to be opened on ``version``, its key made: before anybody can hear of it."""
        settings, now = self._setup.settings, self._world.clock.unix_s()
        every = settings.privacy.rotate_key_rounds
        if every is not None and (number - 1) % every == 0:
            self._setup.keys.begin(number)
        return RoundRecord(
            task=self._task,
            round=number,
            version=version,
            state="open",
            opened_unix_s=now,
            deadline_unix_s=now + settings.deadline_s,
        )

    def check_same(self, known: TaskRecord) -> None:
        """Return if the store's task has this bundle and this strategy.

        Raises:
            ConfigError: it has another one (the user's fault).
        """
        identity, bundle_id = self._setup.strategy_identity, self._setup.bundle.id
        if known.bundle_id != bundle_id:
            raise ConfigError(
                f"task {self._task}: it was begun with bundle {known.bundle_id[:12]}, its folder now has "
                f"{bundle_id[:12]}; give the new bundle a new task id"
            )
        if known.strategy != identity:
            raise ConfigError(
                f"task {self._task}: it was begun with strategy {known.strategy}, the configuration says "
                f"{identity} (the part after # stands for strategy_options, +async for mode); give it a new task id"
            )

    def record(self, version: int, state: State, *, round_: int | None, n_updates: int) -> VersionRecord:
        """Return a new version's record, its vectors durably kept.

        Raises:
            StorageError: they could not be.
        """
        return VersionRecord(
            task=self._task,
            version=version,
            round=round_,
            state=save_state(state, self._world.blobs),
            n_updates=n_updates,
            created_unix_s=self._world.clock.unix_s(),
        )

    @property
    def n_folded(self) -> int:
        """How many versions are folds, those that were retired among them."""
        return self._world.store.n_folded(self._task)

    @property
    def newest(self) -> VersionRecord:
        """The newest version's record."""
        return self._world.store.latest_version(self._task)

    def has(self, version: int) -> bool:
        """Return whether ``version`` is there: it was not retired."""
        return any(one.version == version for one in self._world.store.versions(self._task))

    def unevaluated(self) -> list[int]:
        """Return the versions without metrics, oldest first; none if the task has no evaluation sets."""
        if self._setup.settings.evaluation is None:
            return []
        done = self._world.store.evaluations(self._task).keys()
        return [record.version for record in self._world.store.versions(self._task) if record.version not in done]

    def state(self, version: int) -> State:
        """Return the strategy's state of ``version``.

        Raises:
            StorageError: a vector is missing or has changed.
        """
        (record,) = [one for one in self._world.store.versions(self._task) if one.version == version]
        return self.load(record)

    def load(self, record: VersionRecord) -> State:
        """Return the strategy's state behind a version's record; errors as in ``state``."""
        return load_state(record.state, self._world.blobs)

    def adapter(self, version: int) -> NDArray[np.float32]:
        """Return the adapter of ``version``, float32 [n_params]."""
        return self.state(version)[ADAPTER]

    def measured(self, version: int) -> NDArray[np.float32]:
        """Return what an evaluation needs of ``version``: the adapter, float32 [n_params], and any base change."""
        strategy, state = self._setup.strategy, self.state(version)
        return strategy.broadcast(state) if strategy.needs.open_base else state[ADAPTER]

    def payload(self, version: int) -> bytes:
        """Return what devices are sent of ``version``, encoded."""
        if self._payload is None or self._payload[0] != version:
            vector = self._setup.strategy.broadcast(self.state(version))
            self._payload = (version, broadcast_payload(vector, self._setup.settings.broadcast))
        return self._payload[1]

    def payload_for(self, admitted: Admitted, *, version: int) -> bytes:
        """Return what this device is sent of ``version``: the payload, sealed to it where the task says so."""
        payload = self.payload(version)
        if not self._setup.settings.privacy.seal_adapter:
            return payload
        fleet = self._world.conversation.fleet
        return sealed_adapter(payload, admitted.join, fleet=fleet, device=admitted.device, version=version)
