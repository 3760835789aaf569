"""What follows from a plan and a roster alone: indices, graph, threshold, and what the signatures say.

Laws: both sides compute all of this from the same bytes, so that nobody has to be believed. The graph's seed is the
digest of plan, names and everybody's keys: the server cannot choose it, but it can try again by leaving devices out or
with a corrupt device's new keys, and each try is one more chance of a bad graph (docs/secure-sum.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from protocol.errors import BadSignatureError, RemoteProtocolError
from protocol.secure_sum import graph
from protocol.secure_sum.keys import digest, statement
from protocol.secure_sum.messages import KEY_BYTES, Advert, Roster, SumPlan
from protocol.secure_sum.quantise import Quantiser

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.signing import VerifyKey

__all__ = ["Setting", "advert_digest", "advert_statement", "quantiser_of", "verify"]


def quantiser_of(plan: SumPlan) -> Quantiser:
    """Return the plan's fixed-point format.

    Raises:
        ConfigError: it needs more than 32 bits (the operator's fault).
    """
    return Quantiser(
        n_params=plan.n_params,
        clip=plan.clip,
        weight_cap=plan.weight_cap,
        input_bits=plan.input_bits,
        max_cohort=plan.max_cohort,
        noise_levels=plan.noise_levels or 0,
    )


def advert_statement(plan: SumPlan, name: str, mask_key: bytes, seal_key: bytes) -> bytes:
    """Return what the signature of an advert covers."""
    return statement("advert", plan.digest, name, mask_key, seal_key)


def advert_digest(plan: SumPlan, name: str, advert: Advert) -> bytes:
    """Return the 32 bytes that stand for a device's keys in the roster."""
    return digest("advert digest", plan.digest, name, advert.mask_key, advert.seal_key)


def verify(directory: Mapping[str, VerifyKey], name: str, signature: bytes, message: bytes) -> None:
    """Accept a device's signature or refuse it.

    Raises:
        RemoteProtocolError: ``unknown-device`` or ``bad-signature``.
    """
    if name not in directory:
        raise RemoteProtocolError(f"no key of {name} is known", reason="unknown-device")
    if not directory[name].verify(signature, message):
        raise BadSignatureError(f"a signature in the name of {name} does not hold")


@dataclass(frozen=True)
class Setting:
    """A plan with its roster."""

    plan: SumPlan
    roster: Roster

    def __post_init__(self) -> None:
        """Check that names ascend and that the cohort is within the plan's bounds.

        Raises:
            RemoteProtocolError: ``bad-roster`` (the server's fault).
            ConfigError: no graph withstands the plan's fractions at this size.
        """
        names = self.roster.names
        if any(low >= high for low, high in pairwise(names)):
            raise RemoteProtocolError("the roster's names do not ascend", reason="bad-roster")
        if not self.plan.min_cohort <= self.n <= self.plan.max_cohort:
            raise RemoteProtocolError(
                f"the plan has {self.plan.min_cohort} to {self.plan.max_cohort} devices, the roster {self.n}",
                reason="bad-roster",
            )
        if len(self.roster.digests) != KEY_BYTES * self.n:
            raise RemoteProtocolError("the roster's digests are not one for each name", reason="bad-roster")

    @property
    def n(self) -> int:
        """Devices in the roster."""
        return len(self.roster.names)

    @cached_property
    def spec(self) -> graph.GraphSpec:
        """The parameters of the graph, from the plan's bounds."""
        return graph.choose(
            self.n,
            corrupt_fraction=self.plan.corrupt_fraction,
            dropout_fraction=self.plan.dropout_fraction,
            server=self.plan.server,
        )

    @cached_property
    def digest(self) -> bytes:
        """The 32 bytes that stand for plan, names and keys."""
        return digest("roster", self.plan.digest, "\n".join(self.roster.names), self.roster.digests)

    @cached_property
    def graph(self) -> graph.Graph:
        """Who masks with whom."""
        return graph.Graph(self.n, self.spec.k, digest("graph", self.digest))

    def index_of(self, name: str) -> int:
        """Return the index of a device.

        Raises:
            RemoteProtocolError: ``unknown-device``: not in the roster.
        """
        try:
            return self.roster.names.index(name)
        except ValueError:
            raise RemoteProtocolError(f"{name} is not in the roster", reason="unknown-device") from None

    def digest_of(self, index: int) -> bytes:
        """Return the roster's advert digest of a device."""
        return self.roster.digests[KEY_BYTES * index : KEY_BYTES * (index + 1)]

    def pair(self, one: int, other: int) -> list[object]:
        """Return the facts of the mask between two devices, the same from both sides."""
        return [self.digest, min(one, other), max(one, other)]

    def input_statement(self, index: int, sharers: bytes) -> bytes:
        """Return what a device signs with its masked input: whom it masked with."""
        return statement("masked input", self.digest, index, sharers)

    def consent_statement(self, index: int, sharers: bytes, survivors: bytes) -> bytes:
        """Return what a device signs before it unmasks anything."""
        return statement("consent", self.digest, index, sharers, survivors)

    def commitment(self, index: int, self_seed: bytes) -> bytes:
        """Return the hash that the seed of a device's self-mask must have."""
        return digest("self-mask", self.digest, index, self_seed)
