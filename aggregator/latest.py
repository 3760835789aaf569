"""Gives devices the newest promoted version for their predictions, beside the rounds.

Laws: what a device is given is what it would be given with work, sealed to it where the task seals its adapter; a
candidate that waits for its verdict, and a version that was rejected, is given to nobody; an adapter goes to a device
once in ``EVERY_S`` at most, so that asking costs the asker more than the service. Nothing of it is stored.
Memory: a time for each device that asked lately, at most ``_MAX_ASKERS``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from aggregator.core.gates import statuses
from aggregator.core.intake import Refused
from host.logs import event
from protocol.messages import Latest
from protocol.sealing import adapter_binding, can_seal_to, seal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.conversation import Outgoing
    from aggregator.core.intake import Fetching
    from aggregator.runner import Runner
    from aggregator.task_setup import World
    from protocol.messages import Fetch
    from protocol.reasons import Reason

__all__ = ["EVERY_S", "LatestDesk"]

EVERY_S: Final = 60.0
_MAX_ASKERS: Final = 100_000


class LatestDesk:
    """Answers fetches."""

    def __init__(self, world: World) -> None:
        """Answer from the store and for the fleet of ``world``."""
        self._world = world
        self._given_s: dict[str, float] = {}

    def answer(self, fetching: Fetching, runners: Mapping[str, Runner]) -> Outgoing | Refused:
        """Return the newest promoted version, or why not; a device that has it is told so."""
        device, fetch = fetching.device, fetching.fetch
        runner = runners.get(fetch.task)
        if runner is None:
            return _refused(device, "wrong-task", f"there is no task {fetch.task} here")
        if fetch.bundle_id != runner.setup.bundle.id:
            return _refused(device, "wrong-bundle", f"{fetch.task} has bundle {runner.setup.bundle.id[:12]}")
        version = self._promoted(runner)
        setup = runner.setup
        terms = setup.terms(device, version=version)
        said = Latest(
            task=fetch.task,
            version=version,
            bundle_id=fetch.bundle_id,
            plan=dataclasses.replace(setup.settings.plan, terms=terms),
        )
        if fetch.version >= version:
            return self._world.conversation.latest(device, said)
        is_sealed = setup.settings.privacy.seal_adapter
        if is_sealed and (fetch.seal_key is None or not can_seal_to(fetch.seal_key)):
            return _refused(device, "no-seal-key", "the task seals its adapter, and the fetch brings no key")
        if not self._may_have(device):
            return _refused(device, "too-often", f"the newest version was given less than {EVERY_S:.0f} s ago")
        payload = runner.versions.payload(version)
        adapter = self._sealed(payload, fetch, device=device, version=version) if is_sealed else payload
        event("version-fetched", task=fetch.task, device=device, version=version)
        said = dataclasses.replace(said, adapter=adapter, adapter_sealed=is_sealed or None)
        return self._world.conversation.latest(device, said)

    def _promoted(self, runner: Runner) -> int:
        task = runner.task
        versions = self._world.store.versions(task)
        is_gated = runner.setup.settings.gate is not None
        known = statuses(versions, self._world.lifecycle.standings(task), has_gate=is_gated)
        return max(version for version, status in known.items() if status == "promoted")

    def _may_have(self, device: str) -> bool:
        now_s = self._world.clock.monotonic_s()
        if now_s - self._given_s.get(device, float("-inf")) < EVERY_S:
            return False
        if len(self._given_s) >= _MAX_ASKERS:
            self._given_s = {one: at_s for one, at_s in self._given_s.items() if now_s - at_s < EVERY_S}
        self._given_s[device] = now_s
        return True

    def _sealed(self, payload: bytes, fetch: Fetch, *, device: str, version: int) -> bytes:
        info = adapter_binding(
            fleet=self._world.conversation.fleet,
            task=fetch.task,
            bundle_id=fetch.bundle_id,
            round_=0,
            version=version,
            device=device,
        )
        return seal(payload, public_raw=fetch.seal_key or b"", info=info)


def _refused(device: str, reason: Reason, detail: str) -> Refused:
    return Refused(reason=reason, detail=detail, device=device)
