"""What the device says again and again until it is answered: the join, the update or the sum's step of its session.

Workflow: the session's action begins -> it goes out when it is due and the owner's rules let it -> it is due again
after a jittered, growing wait -> the session moves on, which stops it.

Laws: what goes out again is the outbox's bytes, never made anew; a message that the outbox has lost is given up, as an
event for the caller to apply. The waits are ``core.resend``'s, the chunks ``uploads``'.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, TypeAlias

from edge_agent.core.resend import Resend
from edge_agent.core.session import Receipted, SendJoin, SendUpdate
from edge_agent.core.summing import SendStep
from edge_agent.uploads import Outgoing, Uploads
from host.logs import event as log
from protocol.errors import StorageError
from protocol.messages import Join

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.adapter_seal import AdapterSeal
    from edge_agent.adapters.device_folder import DeviceFolder
    from edge_agent.conduct import Conduct
    from edge_agent.config import BrokerSettings
    from edge_agent.summing import Summing
    from edge_agent.uplink import Uplink
    from protocol.uploads import Uploaded

__all__ = ["Sending"]

# After a receipt of a sum's step: what follows comes by itself when the others have answered.
_ASK_AGAIN_S: Final = 30.0

_OfOutbox: TypeAlias = SendUpdate | SendStep


class Sending:
    """The one thing that the device is saying."""

    def __init__(  # noqa: PLR0913 - the ports are the arguments
        self,
        settings: BrokerSettings,
        *,
        uplink: Uplink,
        folder: DeviceFolder,
        summing: Summing,
        seal_of_adapter: AdapterSeal,
        conduct: Conduct | None,
        clock: Callable[[], float],
    ) -> None:
        """Say nothing yet.

        Args:
            settings: what is large enough for chunks, and how large these are.
            uplink: where it goes out.
            folder: has the updates.
            summing: has the messages of a secure sum.
            seal_of_adapter: makes the keys that joins bring.
            conduct: keeps the owner's rules; without it there are none.
            clock: seconds that only go up.
        """
        self._uplink, self._folder, self._summing, self._conduct = uplink, folder, summing, conduct
        self._seal_of_adapter, self._clock = seal_of_adapter, clock
        self._uploads = Uploads(settings, say=uplink.say, publish=uplink.publish)
        self._resend: Resend | None = None
        self._action: SendJoin | _OfOutbox | None = None
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    @property
    def due_s(self) -> float | None:
        """When something is to be said, by the clock; None if nothing is."""
        return None if self._resend is None else self._resend.due_s

    def link_is_up(self, max_packet_bytes: int | None) -> None:
        """Take note of the largest packet that the broker takes, where it says so."""
        self._uploads.max_packet_bytes = max_packet_bytes

    def begin(self, action: SendJoin | _OfOutbox, *, spread_s: float = 0.0) -> None:
        """Say this from now on, a join for the first time at a random moment within ``spread_s``."""
        now_s = self._clock()
        match action:
            case SendJoin():
                self._resend = Resend.begin(now_s, wait_s=self._random.uniform(0, spread_s))
            case SendStep(is_receipted=True):
                self._resend = Resend.later(now_s, _ASK_AGAIN_S)
            case _:
                self._resend = Resend.begin(now_s)
        self._action = action

    def stop(self) -> None:
        """Say nothing more: it was answered, or is no longer true."""
        self._resend = self._action = None

    def turn(self) -> Receipted | None:
        """Say what is due; return that the update or step is given up, if the outbox has lost it."""
        now_s = self._clock()
        if self._resend is None or now_s < self._resend.due_s:
            return None
        if self._conduct is not None and not self._conduct.may_do(self._action):
            self._resend = Resend.later(now_s, _ASK_AGAIN_S)
            return None
        self._resend = self._resend.sent(now_s, self._random)
        match self._action:
            case SendJoin(job=job):
                seal_key = self._seal_of_adapter.public(job.task, job.round) if job.seal_adapter else None
                self._uplink.say(Join(task=job.task, round=job.round, bundle_id=job.bundle_id, seal_key=seal_key))
            case SendUpdate() | SendStep() as action:
                return self._send(action)
        return None

    def heard(self, said: Uploaded) -> Receipted | None:
        """Send the chunks that the service misses; return as ``turn`` does."""
        action, now_s = self._action, self._clock()
        if not isinstance(action, _OfOutbox) or action.update_id != said.update_id:
            return None
        if self._conduct is not None and not self._conduct.may_do(action):
            return None
        try:
            match self._uploads.heard(said, self._outgoing(action)):
                case "went on":
                    self._resend = Resend.later(now_s, _ASK_AGAIN_S)
                case "ask":
                    self._resend = Resend.begin(now_s)
        except StorageError as error:
            return _lost(action.update_id, error)
        return None

    def _send(self, action: _OfOutbox) -> Receipted | None:
        try:
            self._uploads.send(self._outgoing(action))
        except StorageError as error:
            return _lost(action.update_id, error)
        return None

    def _outgoing(self, action: _OfOutbox) -> Outgoing:
        if isinstance(action, SendStep):
            return Outgoing.of("sum-step", action.update_id, self._summing.envelope(action.update_id))
        n_bytes, read = self._folder.open_update(action.update_id)
        return Outgoing(kind="update", update_id=action.update_id, n_bytes=n_bytes, read=read)


def _lost(update_id: bytes, error: StorageError) -> Receipted:
    # A damaged disk: give this round up rather than stop learning for good; a sum's others recover a drop-out.
    log("outbox-lost", update_id=update_id.hex(), error=str(error))
    return Receipted(update_id=update_id, is_accepted=False)
