"""The server's last step: open each device's one secret from its shares and take its masks out of the sum.

Source: Bonawitz et al. 2017, figure 4, round 4, the server's part.

Laws: for a survivor the self-mask's seed is opened, for one that dropped out its mask key; an opened secret that does
not fit its commitment or public key is never used. If a holder gave a wrong share, other choices of ``threshold``
shares are tried, as many as there are shares, so that a few wrong shares among enough right ones don't end the sum.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from protocol.errors import RemoteProtocolError
from protocol.secure_sum import keys, masks, shamir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from protocol.secure_sum.roster import Setting

__all__ = ["Opened", "remove_masks"]

Opened: TypeAlias = "dict[int, bytes]"  # owner -> the share that one holder gave
_Check: TypeAlias = "Callable[[int, bytes], bool]"  # owner, opened secret -> whether it is the one committed to


def remove_masks(
    total: NDArray[np.uint32],
    setting: Setting,
    *,
    sharers: Mapping[int, bytes],
    survivors: frozenset[int],
    mask_keys: Mapping[int, bytes],
    opened: Mapping[int, Opened],
) -> None:
    """Take every mask out of ``total``, uint32 [n_params + 1], in place; all secrets are opened before it is touched.

    Args:
        total: the sum of the survivors' masked vectors.
        setting: plan and roster.
        sharers: the commitment of each device that shared.
        survivors: whose vectors are in the sum.
        mask_keys: everybody's public mask keys.
        opened: holder -> owner -> share.

    Raises:
        RemoteProtocolError: ``too-few-shares`` or ``bad-shares``: some secret cannot be opened.
    """

    def is_right(owner: int, secret: bytes) -> bool:
        if owner in survivors:
            return setting.commitment(owner, secret) == sharers[owner]
        return keys.public_of(secret) == mask_keys[owner]

    secrets = _open_all(setting, sorted(sharers), opened, is_right)
    for owner, secret in secrets.items():
        if owner in survivors:
            masks.subtract_mask(total, keys.derive(secret, "self-mask stream", setting.digest))
            continue
        private = keys.private_of(secret)
        for other in set(setting.graph.neighbours(owner)) & survivors:
            seed = keys.agree(private, mask_keys[other], "pair mask", setting.pair(owner, other))
            undo = masks.subtract_mask if other < owner else masks.add_mask  # the lower index had added it
            undo(total, seed)


def _open_all(setting: Setting, owners: list[int], opened: Mapping[int, Opened], is_right: _Check) -> dict[int, bytes]:
    """Return everybody's secret; owners with the same holders are opened together."""
    threshold = setting.spec.threshold
    holders_of: dict[int, list[int]] = {
        owner: sorted(holder for holder, given in opened.items() if owner in given) for owner in owners
    }
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for owner, holders in holders_of.items():
        groups[tuple(holders[:threshold])].append(owner)
    secrets = {}
    for holders_, group in groups.items():
        shares = [[opened[holder][owner] for holder in holders_] for owner in group]
        for owner, secret in zip(group, _combine(shares, holders_, threshold), strict=True):
            if secret is not None and is_right(owner, secret):
                secrets[owner] = secret
            else:
                secrets[owner] = _open_despite_wrong_shares(owner, holders_of[owner], opened, threshold, is_right)
    return secrets


def _combine(shares: list[list[bytes]], holders: tuple[int, ...], threshold: int) -> list[bytes | None]:
    """Return the opened secrets; shares that are no field elements open nothing."""
    try:
        return shamir.combine(shares, holders, threshold=threshold)
    except RemoteProtocolError as error:
        if error.reason == "too-few-shares":
            raise
        return [None] * len(shares)


def _open_despite_wrong_shares(
    owner: int, holders: list[int], opened: Mapping[int, Opened], threshold: int, is_right: _Check
) -> bytes:
    """Return the secret from some other run of ``threshold`` holders, in the ring of all who gave a share."""
    for start in range(len(holders)):
        chosen = tuple((holders[start:] + holders[:start])[:threshold])
        (secret,) = _combine([[opened[holder][owner] for holder in chosen]], chosen, threshold)
        if secret is not None and is_right(owner, secret):
            return secret
    raise RemoteProtocolError(f"the shares of device {owner} do not fit its commitment", reason="bad-shares")
