"""What a work message's vector is on this device: the adapter to begin with, and the base weights under it.

Laws: a base change is added to the bundle's own weights, never to those of an earlier version, so a device that missed
versions, or was killed, has the same weights as every other; a vector of another length or with a value that is not
finite is refused, and nothing of it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.trainer.local_terms import n_work_values
from host.base_change import changed_base
from protocol import codec
from protocol.errors import ConfigError
from protocol.lora_pairs import n_dense_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from host.base_change import ChangedBase
    from host.bundle_folder import Bundle
    from protocol.plan import DeviceTerms

__all__ = ["Received", "received"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """See the module."""

    adapter: NDArray[np.float32]  # [n_params], with controls [2 n_params]
    base: ChangedBase | None = None  # None: the bundle's own


def received(bundle: Bundle, payload: bytes, terms: DeviceTerms | None) -> Received:
    """Return what the service sent under ``terms``, encoded by ``protocol.codec``.

    Raises:
        UpdateError: it is not a vector of this bundle's adapter under these terms.
        BundleError, ConfigError: a base change, where the bundle's base weights cannot change.
    """
    vector = codec.decode(payload, n_values=n_work_values(terms, bundle.layout))
    if terms is None or not terms.base_change:
        return Received(adapter=vector)
    if terms.has_controls:
        raise ConfigError("plan: control variates do not go with a base change")
    n_params = vector.size - n_dense_values(bundle.layout)
    return Received(adapter=vector[:n_params].copy(), base=changed_base(bundle, vector[n_params:]))
