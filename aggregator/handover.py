"""Work out, updates in: the two messages that carry vectors, for tasks that live by rounds and for those by buffers.

Laws: a device's work is kept before it is sent, and made again it is the same; an update is durable, blob first, before
its receipt exists. Memory: one message.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aggregator.core.records import Traffic, UpdateRecord
from aggregator.core.seeds import plan_for
from aggregator.core.staging import Staged
from host.logs import event
from protocol.errors import LocalProtocolError
from protocol.messages import Update, Work

if TYPE_CHECKING:
    from aggregator.conversation import Outgoing
    from aggregator.core.intake import Admitted, Taken
    from aggregator.core.records import RoundRecord
    from aggregator.task_setup import TaskSetup, World
    from aggregator.task_versions import TaskVersions

__all__ = ["Handover"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What both need of a task."""

    setup: TaskSetup
    world: World
    versions: TaskVersions

    def hand_work(
        self, admitted: Admitted, round_: RoundRecord, *, seconds_left: float, n_bytes: int, heard_bytes: int
    ) -> Outgoing:
        """Keep that the device takes part in ``round_`` and return its work.

        Args:
            admitted: the device and its join.
            round_: the open round.
            seconds_left: how long the device may take.
            n_bytes: of the join.
            heard_bytes: of the announcement.

        Raises:
            StorageError: it could not be kept.
        """
        device, setup, version = admitted.device, self.setup, round_.version
        plan = plan_for(setup.settings.plan, task=round_.task, round_=round_.round, device=device)
        work = self.world.conversation.work(
            device,
            Work(
                task=round_.task,
                round=round_.round,
                version=version,
                bundle_id=setup.bundle.id,
                plan=dataclasses.replace(plan, terms=setup.terms(device, version=version)),
                adapter=self.versions.payload_for(admitted, version=version),
                adapter_sealed=setup.settings.privacy.seal_adapter or None,
                task_key=setup.keys.of_round(round_.round).public_raw,
                seconds_left=seconds_left,
                secure_sum=setup.sum_terms,
                metrics=setup.settings.metrics,
            ),
        )
        down_bytes = work.n_bytes + (heard_bytes if admitted.is_first else 0)
        traffic = Traffic(up_bytes=n_bytes, down_bytes=down_bytes)
        self.world.store.join(round_.task, round_.round, device, traffic=traffic, unix_s=self.world.clock.unix_s())
        if admitted.is_first:
            event(
                "device-joined",
                task=round_.task,
                round=round_.round,
                device=device,
                bytes_up=traffic.up_bytes,
                bytes_down=traffic.down_bytes,
            )
        return work

    def take(self, taken: Taken, *, n_bytes: int, buffer: int | None = None) -> Outgoing:
        """Keep the update durably, in ``buffer`` if it is for one, and return its receipt.

        Raises:
            StorageError: it could not be kept.
        """
        update, figures = taken.update, taken.figures
        receipt = self.world.conversation.accepted(taken.device, update)
        record = UpdateRecord(
            update_id=update.update_id,
            task=update.task,
            round=update.round,
            device=taken.device,
            blob=self._blob(update),
            n_bytes=n_bytes,
            payload_bytes=figures.payload_bytes,
            n_examples=figures.n_examples,
            loss=figures.loss,
            train_s=figures.train_s,
        )
        traffic = Traffic(up_bytes=n_bytes, down_bytes=receipt.n_bytes)
        asked = self.setup.settings.metrics or ()
        told: dict[str, float] = {name: value for name, value in figures.metrics.items() if name in asked}
        now = self.world.clock.unix_s()
        self.world.store.accept(record, traffic=traffic, unix_s=now, buffer=buffer, metrics=told)
        in_buffer: dict[str, Any] = {} if buffer is None else {"buffer": buffer}
        event(
            "update-accepted",
            task=update.task,
            round=update.round,
            **in_buffer,
            device=taken.device,
            update_id=update.update_id.hex(),
            bytes=n_bytes,
            payload_bytes=figures.payload_bytes,
            n_examples=figures.n_examples,
            loss=figures.loss,
            train_s=figures.train_s,
        )
        return receipt

    def _blob(self, update: Update | Staged) -> str:
        """Return the name of the sealed bytes, durable: a worker's were before there was a row of them."""
        if isinstance(update, Staged) and update.blob is not None:
            return update.blob
        if isinstance(update, Update):
            return self.world.blobs.put(update.sealed)
        raise LocalProtocolError("a staged update without its bytes was taken")
