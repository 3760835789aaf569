"""The device's five steps: a table and one pure function a step, from state and message to state and message.

    advertised ── roster ──> shared ── delivery ──> masked ── survivors ──> consented ── agreement ──> unmasked
        └───────────────────────┴── abort, from anywhere ──┴────────────────────┴──> aborted

Source: Bonawitz et al. 2017, figure 4, rounds 0 to 4, with the neighbours of Bell et al. 2020; departures in
docs/secure-sum.md.

Laws:
- a refused message changes nothing; a message out of step is refused;
- a state's secrets come from its ``entropy`` alone, so doing a step again from the same state gives the same bytes;
- the caller stores the new state *with* the reply before it sends the reply. Then one vector is masked, one set of
  survivors is signed and one share of each neighbour is given, whatever crashes (either-or);
- a share of a neighbour's self-mask is given if it is among the survivors that were signed, of its mask key if it is
  not: the one expression ``_share_of`` decides;
- after the last step and after an abort a state holds no secret.

Does not know: the clock (a caller with a deadline calls ``abort``), topics, files, who may be in the directory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.fields import Length, Name
from protocol.messages import MAX_MESSAGE_BYTES
from protocol.secure_sum import keys, masks, quantise, shamir
from protocol.secure_sum.distributed_noise import check_noise, noised
from protocol.secure_sum.messages import (
    ADVERT_BYTES,
    KEY_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    SIGNATURE_BYTES,
    Advert,
    Agreement,
    Consent,
    Delivery,
    MaskedInput,
    Roster,
    Shares,
    SumPlan,
    Survivors,
    Unmask,
    bitmap,
    cut,
    members,
    pack,
    unpack,
)
from protocol.secure_sum.roster import Setting, advert_digest, advert_statement, quantiser_of, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from protocol.signing import Signer, VerifyKey

__all__ = [
    "TABLE",
    "DeviceEvent",
    "DeviceState",
    "DeviceStep",
    "Noise",
    "abort",
    "advertise",
    "pack_state",
    "take_agreement",
    "take_delivery",
    "take_roster",
    "take_survivors",
    "unpack_state",
]

DeviceStep: TypeAlias = Literal["advertised", "shared", "masked", "consented", "unmasked", "aborted"]
DeviceEvent: TypeAlias = Literal["roster", "delivery", "survivors", "agreement", "abort"]
# Levels int64 [n_params] and a seed of 32 bytes to levels with noise: pure, so that a restart gives the same.
Noise: TypeAlias = "Callable[[NDArray[np.int64], bytes], NDArray[np.int64]]"

TABLE: Final[Mapping[tuple[DeviceStep, DeviceEvent], DeviceStep]] = MappingProxyType(
    {
        ("advertised", "roster"): "shared",
        ("shared", "delivery"): "masked",
        ("masked", "survivors"): "consented",
        ("consented", "agreement"): "unmasked",
        ("advertised", "abort"): "aborted",
        ("shared", "abort"): "aborted",
        ("masked", "abort"): "aborted",
        ("consented", "abort"): "aborted",
    }
)
_ENTROPY_BYTES: Final = 32
_Kept = Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """Where a device is in one sum: its entropy and the messages that it accepted, as they came.

    The ``repr`` shows nothing of the entropy.
    """

    step: DeviceStep
    plan: SumPlan
    name: Name
    entropy: Annotated[bytes, Length(0, _ENTROPY_BYTES)] = b""
    roster: _Kept | None = None
    delivery: _Kept | None = None
    survivors: _Kept | None = None

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


def advertise(plan: SumPlan, *, name: str, key: Signer, entropy: bytes) -> tuple[DeviceState, bytes]:
    """Begin: make this sum's keys and sign them (round 0, AdvertiseKeys).

    Args:
        plan: what the device agreed to.
        name: the device's name in the directory.
        key: the device's own key.
        entropy: 32 bytes from a cryptographic source, used for this sum alone.

    Raises:
        LocalProtocolError: not 32 bytes of entropy (our fault).
        ConfigError: the plan's figures need more than 32 bits (the operator's fault).
    """
    if len(entropy) != _ENTROPY_BYTES:
        raise LocalProtocolError(f"a secure sum takes {_ENTROPY_BYTES} bytes of entropy, got {len(entropy)}")
    quantiser_of(plan)  # refuse a plan that cannot be masked or noised before promising anything
    if plan.noise_multiplier is not None:
        check_noise(plan)
    state = DeviceState(step="advertised", plan=plan, name=name, entropy=entropy)
    mask_key, seal_key = keys.public_of(_secret(state, "mask key")), keys.public_of(_secret(state, "seal key"))
    signature = key.sign(advert_statement(plan, name, mask_key, seal_key))
    return state, pack(Advert(mask_key=mask_key, seal_key=seal_key, signature=signature))


def take_roster(state: DeviceState, data: bytes, *, directory: Mapping[str, VerifyKey]) -> tuple[DeviceState, bytes]:
    """Check who takes part and give each neighbour its sealed shares (round 1, ShareKeys).

    Raises:
        RemoteProtocolError: ``bad-roster``, ``bad-signature``, ``unknown-device``, ``bad-key`` (the server's fault).
    """
    step = _fire(state, "roster")
    view = _View.of(replace(state, roster=data))
    _check_adverts(view, directory)
    given = view.own_shares()
    sealed = b"".join(
        keys.seal(view.seal_key(sender=view.index, receiver=other), given[other]) for other in view.neighbours
    )
    commitment = view.setting.commitment(view.index, _secret(state, "self seed"))
    return replace(state, step=step, roster=data), pack(Shares(commitment=commitment, sealed=sealed))


def take_delivery(  # noqa: PLR0913 - a step and what it masks
    state: DeviceState,
    data: bytes,
    *,
    vector: NDArray[np.float32],
    weight: int,
    key: Signer,
    is_stochastic: bool = False,
    noise: Noise | None = None,
) -> tuple[DeviceState, bytes]:
    """Mask the device's vector and forget nothing yet (round 2, MaskedInputCollection).

    Args:
        state: after ``take_roster``.
        data: the server's Delivery.
        vector: float32 [n_params], within the plan's clip.
        weight: examples, 1 to the plan's cap.
        key: the device's own key.
        is_stochastic: round stochastically (unbiased) instead of to the nearest level.
        noise: gets the device's levels before they are masked and 32 random bytes of this state, and returns levels
            with noise of another kind. The plan's ``noise_levels`` must leave room for the sum of everybody's noise.
            A plan with a ``noise_multiplier`` needs none: the device clips and adds its share (``distributed_noise``).

    Raises:
        RemoteProtocolError: ``not-shared``, ``wrong-shape`` (the server's fault).
        LocalProtocolError: the vector breaks its bounds, or the plan has noise of its own (our fault).
    """
    step = _fire(state, "delivery")
    after = replace(state, step=step, delivery=data)
    view = _View.of(after)
    _check_delivery(view)
    quantiser = quantiser_of(state.plan)
    seed = _secret(state, "rounding") if is_stochastic else None
    values = quantiser.encode(vector, weight, seed=seed)  # uint32 [n_params + 1]
    add = _noise_of(view, noise)
    if add is not None:
        values = quantiser.with_noise(values, lambda levels: add(levels, _secret(state, "noise")))
    masks.add_mask(values, keys.derive(_secret(state, "self seed"), "self-mask stream", view.setting.digest))
    for other in view.sharing:  # Bonawitz 2017, figure 4, round 2: plus towards the higher index, minus the lower
        apply = masks.add_mask if view.index < other else masks.subtract_mask
        apply(values, view.mask_seed(other))
    values &= quantiser.mask
    signature = key.sign(view.setting.input_statement(view.index, view.sharers_bitmap))
    return after, pack(MaskedInput(values=quantise.pack(values, quantiser.bits), signature=signature))


def take_survivors(
    state: DeviceState, data: bytes, *, directory: Mapping[str, VerifyKey], key: Signer
) -> tuple[DeviceState, bytes]:
    """Sign the one set of survivors that this device will ever sign (round 3, ConsistencyCheck).

    Raises:
        RemoteProtocolError: ``not-survived``, ``bad-signature`` (a neighbour masked with other devices than we think).
    """
    step = _fire(state, "survivors")
    after = replace(state, step=step, survivors=data)
    view = _View.of(after)
    message = unpack(Survivors, data)
    alive = view.survivors
    if view.index not in alive or not alive <= view.sharers or len(alive) < view.setting.spec.min_survivors:
        raise RemoteProtocolError(
            f"{len(alive)} survivors, {view.setting.spec.min_survivors} are needed, this device and none but sharers "
            "among them",
            reason="not-survived",
        )
    neighbours = [other for other in view.sharing if other in alive]
    for other, signature in cut(message.signatures, neighbours, SIGNATURE_BYTES).items():
        said = view.setting.input_statement(other, view.sharers_bitmap)
        verify(directory, view.setting.roster.names[other], signature, said)
    consent = view.setting.consent_statement(view.index, view.sharers_bitmap, message.survivors)
    return after, pack(Consent(signature=key.sign(consent)))


def take_agreement(state: DeviceState, data: bytes, *, directory: Mapping[str, VerifyKey]) -> tuple[DeviceState, bytes]:
    """Give one share of each neighbour, if enough of them signed the same survivors (round 4, Unmasking).

    Raises:
        RemoteProtocolError: ``no-agreement``, ``bad-signature`` (the server shows different sets to different devices).
    """
    step = _fire(state, "agreement")
    view = _View.of(state)
    _check_agreement(view, unpack(Agreement, data), directory)
    given = {view.index: _share_of(view, view.index, view.own_shares()[view.index])}
    for other, sealed in view.sealed.items():
        opened = keys.open_sealed(view.seal_key(sender=other, receiver=view.index), sealed)
        if opened is not None and len(opened) == 2 * SHARE_BYTES:  # else it harmed itself alone: it has one share less
            given[other] = _share_of(view, other, opened)
    reply = Unmask(owners=bitmap(given, view.setting.n), shares=b"".join(given[owner] for owner in sorted(given)))
    return DeviceState(step=step, plan=state.plan, name=state.name), pack(reply)


def abort(state: DeviceState) -> DeviceState:
    """Return the end of a sum that is given up; nothing secret is left in it."""
    return DeviceState(step=_fire(state, "abort"), plan=state.plan, name=state.name)


def _noise_of(view: _View, given: Noise | None) -> Noise | None:
    plan = view.state.plan
    if plan.noise_multiplier is None:
        return given
    if given is not None:
        raise LocalProtocolError("the plan says how its devices add noise")
    return partial(noised, plan=plan, spec=view.setting.spec)


def _fire(state: DeviceState, event: DeviceEvent) -> DeviceStep:
    try:
        return TABLE[state.step, event]
    except KeyError:
        raise RemoteProtocolError(f"a device that has {state.step} takes no {event}", reason="out-of-step") from None


def _secret(state: DeviceState, label: str) -> bytes:
    """Return one of the secrets of this sum."""
    return keys.derive(state.entropy, label, state.plan.digest, state.name)


def _share_of(view: _View, owner: int, pair: bytes) -> bytes:
    """Return the share of the self-mask of a survivor, of the mask key of one that dropped out, and never both."""
    return pair[:SHARE_BYTES] if owner in view.survivors else pair[SHARE_BYTES:]


@dataclass(frozen=True, kw_only=True)
class _View:
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
    def of(cls, state: DeviceState) -> _View:
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
        return keys.private_of(_secret(self.state, "mask key"))

    @cached_property
    def _seal_private(self) -> keys.PrivateKey:
        return keys.private_of(_secret(self.state, "seal key"))

    def mask_seed(self, other: int) -> bytes:
        facts = self.setting.pair(self.index, other)
        return keys.agree(self._mask_private, self.adverts[other].mask_key, "pair mask", facts)

    def seal_key(self, *, sender: int, receiver: int) -> bytes:
        other = receiver if sender == self.index else sender
        facts = [self.setting.digest, sender, receiver]
        return keys.agree(self._seal_private, self.adverts[other].seal_key, "shares", facts)

    def own_shares(self) -> dict[int, bytes]:
        """Return for each holder its pair: a share of the self-mask's seed, then one of the mask key."""
        holders = self.setting.graph.holders(self.index)
        secrets = [_secret(self.state, "self seed"), _secret(self.state, "mask key")]
        threshold, seed = self.setting.spec.threshold, _secret(self.state, "polynomials")
        # The polynomials depend on the roster, so that no two sets of shares are of one polynomial.
        seed = keys.derive(seed, "polynomials", self.setting.digest)
        self_shares, key_shares = shamir.share(secrets, holders, threshold=threshold, seed=seed)
        return {holder: self_shares[i] + key_shares[i] for i, holder in enumerate(holders)}


def _advert(data: bytes) -> Advert:
    return Advert(mask_key=data[:KEY_BYTES], seal_key=data[KEY_BYTES : 2 * KEY_BYTES], signature=data[2 * KEY_BYTES :])


def _check_adverts(view: _View, directory: Mapping[str, VerifyKey]) -> None:
    plan, names = view.state.plan, view.setting.roster.names
    own = Advert(
        mask_key=keys.public_of(_secret(view.state, "mask key")),
        seal_key=keys.public_of(_secret(view.state, "seal key")),
        signature=bytes(SIGNATURE_BYTES),
    )
    if advert_digest(plan, view.state.name, own) != view.setting.digest_of(view.index):
        raise RemoteProtocolError("the roster has other keys of this device than its own", reason="bad-roster")
    for other, advert in view.adverts.items():
        if advert_digest(plan, names[other], advert) != view.setting.digest_of(other):
            raise RemoteProtocolError(f"the keys of {names[other]} are not the roster's", reason="bad-roster")
        said = advert_statement(plan, names[other], advert.mask_key, advert.seal_key)
        verify(directory, names[other], advert.signature, said)


def _check_delivery(view: _View) -> None:
    spec = view.setting.spec
    if view.index not in view.sharers or len(view.sharers) < spec.min_survivors:
        raise RemoteProtocolError("this device or too many others are not among those who shared", reason="not-shared")
    if len(view.sharing) + 1 < spec.threshold:
        raise RemoteProtocolError(
            f"{len(view.sharing) + 1} holders shared, {spec.threshold} are needed", reason="not-shared"
        )


def _check_agreement(view: _View, message: Agreement, directory: Mapping[str, VerifyKey]) -> None:
    consenters = members(message.consenters, view.setting.n)
    if not consenters <= set(view.sharing) & view.survivors:
        raise RemoteProtocolError("a consent of a device that is no surviving neighbour", reason="no-agreement")
    if len(consenters) + 1 < view.setting.spec.threshold:
        raise RemoteProtocolError(
            f"{len(consenters) + 1} consents, {view.setting.spec.threshold} are needed", reason="no-agreement"
        )
    survivors = bitmap(view.survivors, view.setting.n)
    for other, signature in cut(message.signatures, sorted(consenters), SIGNATURE_BYTES).items():
        said = view.setting.consent_statement(other, view.sharers_bitmap, survivors)
        verify(directory, view.setting.roster.names[other], signature, said)
