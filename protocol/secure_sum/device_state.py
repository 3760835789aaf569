"""What a device keeps of one secure sum, and what follows from that: its secrets, neighbours, sharers and survivors.

Laws: a state is its entropy and the messages that were accepted, as they came; everything else is computed from these,
so nothing can contradict them and the same state gives the same secrets; no secret is in a ``repr``. What is allowed in
which order is in ``device``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.fields import Length, Name
from protocol.secure_sum import keys, shamir
from protocol.secure_sum.messages import (
    ADVERT_BYTES,
    KEY_BYTES,
    SEALED_BYTES,
    Advert,
    Delivery,
    Roster,
    SumPlan,
    Survivors,
    bitmap,
    cut,
    members,
    pack,
    unpack,
)
from protocol.secure_sum.roster import Setting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ENTROPY_BYTES", "DeviceState", "DeviceStep", "DeviceView", "pack_state", "unpack_state"]

DeviceStep: TypeAlias = Literal["advertised", "shared", "masked", "consented", "unmasked", "aborted"]
ENTROPY_BYTES: Final = 32
_Kept = Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """Where a device is in one sum: its entropy and the messages that it accepted, as they came.

    The ``repr`` shows nothing of the entropy.
    """

    step: DeviceStep
    plan: SumPlan
    name: Name
    entropy: Annotated[bytes, Length(0, ENTROPY_BYTES)] = b""
    roster: _Kept | None = None
    delivery: _Kept | None = None
    survivors: _Kept | None = None

    def secret(self, label: str) -> bytes:
        """Return one of the secrets of this sum."""
        return keys.derive(self.entropy, label, self.plan.digest, self.name)

    def __repr__(self) -> str:
        return f"DeviceState(step={self.step!r}, name={self.name!r}, round={self.plan.round})"


def pack_state(state: DeviceState) -> bytes:
    """Return the bytes to store durably, readable by nobody else: they hold the device's secrets of this sum."""
    return pack(state)


def unpack_state(data: bytes) -> DeviceState:
    """Return the stored state.

    Raises:
        MalformedMessageError: these are no bytes of ``pack_state`` (the disk's fault).
    """
    return unpack(DeviceState, data, max_bytes=4 * MAX_MESSAGE_BYTES)


@dataclass(frozen=True, kw_only=True)
class DeviceView:
    """What a state means: everything here follows from it."""

    state: DeviceState
    setting: Setting
    index: int
    neighbours: tuple[int, ...]
    adverts: Mapping[int, Advert]
    sharers_bitmap: bytes
    sharers: frozenset[int]
    sealed: Mapping[int, bytes]
    survivors: frozenset[int]

    @classmethod
    def of(cls, state: DeviceState) -> DeviceView:
        """Return what follows from ``state``, which has a roster.

        Raises:
            RemoteProtocolError: a message in it is not of this roster (the server's fault).
        """
        roster = unpack(Roster, state.roster or b"")
        setting = Setting(state.plan, roster)
        index = setting.index_of(state.name)
        neighbours = setting.graph.neighbours(index)
        adverts = {other: _advert(one) for other, one in cut(roster.adverts, neighbours, ADVERT_BYTES).items()}
        delivery = unpack(Delivery, state.delivery) if state.delivery else Delivery(sharers=b"", sealed=b"")
        sharers = members(delivery.sharers, setting.n) if state.delivery else frozenset[int]()
        survivors = unpack(Survivors, state.survivors).survivors if state.survivors else bitmap((), setting.n)
        return cls(
            state=state,
            setting=setting,
            index=index,
            neighbours=neighbours,
            adverts=adverts,
            sharers_bitmap=delivery.sharers,
            sharers=sharers,
            sealed=cut(delivery.sealed, [other for other in neighbours if other in sharers], SEALED_BYTES),
            survivors=members(survivors, setting.n),
        )

    @property
    def sharing(self) -> Sequence[int]:
        """The neighbours who shared, with whom this device masks."""
        return [other for other in self.neighbours if other in self.sharers]

    @cached_property
    def _mask_private(self) -> keys.PrivateKey:
        return keys.private_of(self.state.secret("mask key"))

    @cached_property
    def _seal_private(self) -> keys.PrivateKey:
        return keys.private_of(self.state.secret("seal key"))

    def mask_seed(self, other: int) -> bytes:
        """Return the seed of the mask that this device shares with a neighbour."""
        facts = self.setting.pair(self.index, other)
        return keys.agree(self._mask_private, self.adverts[other].mask_key, "pair mask", facts)

    def seal_key(self, *, sender: int, receiver: int) -> bytes:
        """Return the key of what ``sender`` seals to ``receiver``, one of them this device."""
        other = receiver if sender == self.index else sender
        facts = [self.setting.digest, sender, receiver]
        return keys.agree(self._seal_private, self.adverts[other].seal_key, "shares", facts)

    def own_shares(self) -> dict[int, bytes]:
        """Return for each holder its pair: a share of the self-mask's seed, then one of the mask key."""
        holders = self.setting.graph.holders(self.index)
        secrets = [self.state.secret("self seed"), self.state.secret("mask key")]
        threshold, seed = self.setting.spec.threshold, self.state.secret("polynomials")
        # The polynomials depend on the roster, so that no two sets of shares are of one polynomial.
        seed = keys.derive(seed, "polynomials", self.setting.digest)
        self_shares, key_shares = shamir.share(secrets, holders, threshold=threshold, seed=seed)
        return {holder: self_shares[i] + key_shares[i] for i, holder in enumerate(holders)}


def _advert(data: bytes) -> Advert:
    return Advert(mask_key=data[:KEY_BYTES], seal_key=data[KEY_BYTES : 2 * KEY_BYTES], signature=data[2 * KEY_BYTES :])
