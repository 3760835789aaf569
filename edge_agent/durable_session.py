"""The session as it lives on a device: its state in memory and in the agent's folder.

Laws: a state is on the disk before it counts here and before anything is done for it, so that after a crash ``Resume``
does the same again; what was heard is on the disk before it is believed. Decides nothing (``core.session`` and
``core.heard`` do) and does none of the actions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edge_agent.core.heard import hear
from edge_agent.core.session import step
from host.logs import event as log
from protocol.messages import kind_of

if TYPE_CHECKING:
    from edge_agent.adapters.device_folder import DeviceFolder
    from edge_agent.core.session import Action, Event, SessionState
    from protocol.messages import Announce, Work

__all__ = ["DurableSession"]


class DurableSession:
    """One device's session."""

    def __init__(self, folder: DeviceFolder) -> None:
        """Take up the state that is saved in ``folder``.

        Raises:
            StorageError: it is damaged.
        """
        self._folder = folder
        self._state = folder.load_state()

    @property
    def state(self) -> SessionState:
        """Where the device is; as on the disk."""
        return self._state

    def would_move(self, event: Event) -> bool:
        """Return whether ``event`` would change the state."""
        after, _ = step(self._state, event)
        return after != self._state

    def take(self, event: Event) -> tuple[Action, ...]:
        """Step the table, keep the state that follows, and return what is to be done.

        Raises:
            StorageError: the state cannot be kept; nothing is to be done then.
        """
        after, actions = step(self._state, event)
        if after != self._state:
            self._keep(after)
        return actions

    def is_news(self, said: Announce | Work) -> bool:
        """Return whether it is no older than what was heard, after keeping that it was heard.

        Raises:
            StorageError: that cannot be kept.
        """
        heard = hear(self._state.heard, task=said.task, round_=said.round, version=said.version)
        if heard is None:
            log("rollback-refused", kind=kind_of(said), task=said.task, round=said.round, version=said.version)
            return False
        if heard != self._state.heard:
            self._keep(replace(self._state, heard=heard))
        return True

    def _keep(self, state: SessionState) -> None:
        self._folder.save_state(state)
        self._state = state
