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

What a state is, and what follows from it, is in ``device_state``. Does not know: the clock (a caller with a deadline
calls ``abort``), topics, files, who may be in the directory.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.secure_sum import keys, masks, quantise
from protocol.secure_sum.device_state import ENTROPY_BYTES, DeviceState, DeviceStep, DeviceView
from protocol.secure_sum.distributed_noise import check_noise, noised
from protocol.secure_sum.messages import (
    SHARE_BYTES,
    SIGNATURE_BYTES,
    Advert,
    Agreement,
    Consent,
    MaskedInput,
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
from protocol.secure_sum.roster import advert_digest, advert_statement, quantiser_of, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from protocol.signing import Signer, VerifyKey

__all__ = [
    "TABLE",
    "DeviceEvent",
    "Noise",
    "abort",
    "advertise",
    "take_agreement",
    "take_delivery",
    "take_roster",
    "take_survivors",
]

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
    if len(entropy) != ENTROPY_BYTES:
        raise LocalProtocolError(f"a secure sum takes {ENTROPY_BYTES} bytes of entropy, got {len(entropy)}")
    quantiser_of(plan)  # refuse a plan that cannot be masked or noised before promising anything
    if plan.noise_multiplier is not None:
        check_noise(plan)
    state = DeviceState(step="advertised", plan=plan, name=name, entropy=entropy)
    mask_key, seal_key = keys.public_of(state.secret("mask key")), keys.public_of(state.secret("seal key"))
    signature = key.sign(advert_statement(plan, name, mask_key, seal_key))
    return state, pack(Advert(mask_key=mask_key, seal_key=seal_key, signature=signature))


def take_roster(state: DeviceState, data: bytes, *, directory: Mapping[str, VerifyKey]) -> tuple[DeviceState, bytes]:
    """Check who takes part and give each neighbour its sealed shares (round 1, ShareKeys).

    Raises:
        RemoteProtocolError: ``bad-roster``, ``bad-signature``, ``unknown-device``, ``bad-key`` (the server's fault).
    """
    step = _fire(state, "roster")
    view = DeviceView.of(replace(state, roster=data))
    _check_adverts(view, directory)
    given = view.own_shares()
    sealed = b"".join(
        keys.seal(view.seal_key(sender=view.index, receiver=other), given[other]) for other in view.neighbours
    )
    commitment = view.setting.commitment(view.index, state.secret("self seed"))
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
    view = DeviceView.of(after)
    _check_delivery(view)
    quantiser = quantiser_of(state.plan)
    seed = state.secret("rounding") if is_stochastic else None
    values = quantiser.encode(vector, weight, seed=seed)  # uint32 [n_params + 1]
    add = _noise_of(view, noise)
    if add is not None:
        values = quantiser.with_noise(values, lambda levels: add(levels, state.secret("noise")))
    masks.add_mask(values, keys.derive(state.secret("self seed"), "self-mask stream", view.setting.digest))
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
    view = DeviceView.of(after)
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
    view = DeviceView.of(state)
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


def _noise_of(view: DeviceView, given: Noise | None) -> Noise | None:
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


def _share_of(view: DeviceView, owner: int, pair: bytes) -> bytes:
    """Return the share of the self-mask of a survivor, of the mask key of one that dropped out, and never both."""
    return pair[:SHARE_BYTES] if owner in view.survivors else pair[SHARE_BYTES:]


def _check_adverts(view: DeviceView, directory: Mapping[str, VerifyKey]) -> None:
    plan, names = view.state.plan, view.setting.roster.names
    own = Advert(
        mask_key=keys.public_of(view.state.secret("mask key")),
        seal_key=keys.public_of(view.state.secret("seal key")),
        signature=bytes(SIGNATURE_BYTES),
    )
    if advert_digest(plan, view.state.name, own) != view.setting.digest_of(view.index):
        raise RemoteProtocolError("the roster has other keys of this device than its own", reason="bad-roster")
    for other, advert in view.adverts.items():
        if advert_digest(plan, names[other], advert) != view.setting.digest_of(other):
            raise RemoteProtocolError(f"the keys of {names[other]} are not the roster's", reason="bad-roster")
        said = advert_statement(plan, names[other], advert.mask_key, advert.seal_key)
        verify(directory, names[other], advert.signature, said)


def _check_delivery(view: DeviceView) -> None:
    spec = view.setting.spec
    if view.index not in view.sharers or len(view.sharers) < spec.min_survivors:
        raise RemoteProtocolError("this device or too many others are not among those who shared", reason="not-shared")
    if len(view.sharing) + 1 < spec.threshold:
        raise RemoteProtocolError(
            f"{len(view.sharing) + 1} holders shared, {spec.threshold} are needed", reason="not-shared"
        )


def _check_agreement(view: DeviceView, message: Agreement, directory: Mapping[str, VerifyKey]) -> None:
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
