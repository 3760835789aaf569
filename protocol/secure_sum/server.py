"""The server's five steps: a table, one function that takes a message and one that ends a step.

    adverts ──> shares ──> inputs ──> consents ──> unmasking ──> done
       └──────────┴───────────┴───────────┴─────────────┴──> aborted

Source: Bonawitz et al. 2017, figure 4, the server's part, with the neighbours of Bell et al. 2020.

Laws:
- a masked vector is added to the running sum when it comes and kept nowhere; a step ends when the caller says so
  (everybody answered, or the deadline passed);
- with fewer devices than the graph's ``min_survivors`` a step ends in ``aborted``: nothing is asked of anybody, the
  running sum is dropped, and what is left are numbers that nobody can read;
- a refused message changes nothing; the second message of a device in a step is refused;
- a state packs and unpacks at any moment, and goes on to the same bytes.

Memory: one uint32 vector, and the shares in transit (88 bytes for each neighbour of each device). Not frozen: the
running sum is added to in place. Does not know: clocks, topics, storage; who sent a message is the caller's to verify.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from protocol import cbor
from protocol.errors import ConfigError, LocalProtocolError, MalformedMessageError, RemoteProtocolError
from protocol.fields import plain
from protocol.secure_sum import quantise
from protocol.secure_sum.messages import (
    SEALED_BYTES,
    SHARE_BYTES,
    Advert,
    Agreement,
    Consent,
    Delivery,
    MaskedInput,
    Roster,
    ServerStep,
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
from protocol.secure_sum.stored import STORED_BYTES, Stored, join_records, split_records
from protocol.secure_sum.unmasking import Opened, remove_masks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from protocol.secure_sum.quantise import WeightedMean
    from protocol.signing import VerifyKey

__all__ = ["TABLE", "SumServer"]

_SMALL_BYTES: Final = 1024  # keys, heads, bitmaps and signatures of any message here; 350 measured

# What ``close`` leads to when enough devices answered; with too few every step leads to ``aborted``.
TABLE: Final[Mapping[ServerStep, ServerStep]] = MappingProxyType(
    {
        "adverts": "shares",
        "shares": "inputs",
        "inputs": "consents",
        "consents": "unmasking",
        "unmasking": "done",
    }
)


@dataclass(slots=True, kw_only=True)
class SumServer:
    """One secure sum on the server.

    Attributes:
        plan: what all parties agreed on.
        directory: the devices' own public keys by name; who may be in it is decided elsewhere.
        step: which messages are taken now.
        abort_reason: why the sum was given up, a ``SumReason``; empty if it was not.
    """

    plan: SumPlan
    directory: Mapping[str, VerifyKey]
    step: ServerStep = "adverts"
    abort_reason: str = ""
    _adverts: dict[str, Advert] = field(default_factory=dict)
    _setting: Setting | None = None
    _sealed: dict[int, bytes] = field(default_factory=dict)  # shares in transit, dropped once delivered
    _commitments: dict[int, bytes] = field(default_factory=dict)  # who shared, and what its self-mask's seed hashes to
    _inputs: dict[int, bytes] = field(default_factory=dict)  # signatures; the vectors are in the sum
    _total: NDArray[np.uint32] | None = None
    _consents: dict[int, bytes] = field(default_factory=dict)
    _opened: dict[int, Opened] = field(default_factory=dict)

    def receive(self, sender: str, data: bytes) -> None:
        """Take one device's message of the present step.

        Raises:
            RemoteProtocolError: refused; nothing has changed (the peer's fault, named by its reason).
        """
        match self.step:
            case "adverts":
                self._take_advert(sender, data)
            case "shares":
                self._take_shares(self._fresh(sender, self._commitments), data)
            case "inputs":
                self._take_input(self._fresh(sender, self._inputs), data)
            case "consents":
                self._take_consent(self._fresh(sender, self._consents), data)
            case "unmasking":
                self._take_unmask(self._fresh(sender, self._opened), data)
            case _:
                raise RemoteProtocolError(f"the sum is {self.step}", reason="out-of-step")

    @property
    def answered(self) -> frozenset[str]:
        """Who has answered in the present step."""
        found: dict[str, Mapping[int, object]] = {
            "shares": self._commitments,
            "inputs": self._inputs,
            "consents": self._consents,
            "unmasking": self._opened,
        }
        if self.step == "adverts":
            return frozenset(self._adverts)
        return frozenset(self.setting.roster.names[index] for index in found.get(self.step, ()))

    @property
    def n_expected(self) -> int:
        """How many devices may answer in the present step, at most; 0 after the end."""
        counts: dict[str, int] = {
            "adverts": self.plan.max_cohort,
            "shares": self._setting.n if self._setting else 0,
            "inputs": len(self._commitments),
            "consents": len(self._inputs),
            "unmasking": len(self._consents),
        }
        return counts.get(self.step, 0)

    @property
    def setting(self) -> Setting:
        """Plan and roster, once there is one.

        Raises:
            LocalProtocolError: no step has been closed yet (our fault).
        """
        if self._setting is None:
            raise LocalProtocolError("the sum has no roster yet")
        return self._setting

    def close(self) -> dict[str, bytes]:
        """End the present step and return the message to each device that goes on; none after ``done`` or ``aborted``.

        Raises:
            LocalProtocolError: the sum has ended (our fault).
        """
        if self.step not in TABLE:
            raise LocalProtocolError(f"a sum that is {self.step} has no step to close")
        endings = {
            "adverts": self._close_adverts,
            "shares": self._close_shares,
            "inputs": self._close_inputs,
            "consents": self._close_consents,
            "unmasking": self._close_unmasking,
        }
        try:
            messages = endings[self.step]()
        except (RemoteProtocolError, ConfigError) as error:
            self.abort(getattr(error, "reason", "too-few-devices"))
            return {}
        self.step = TABLE[self.step]
        return messages

    def abort(self, reason: str) -> None:
        """Give the sum up and drop everything that was collected."""
        self.step, self.abort_reason, self._total = "aborted", reason, None
        for collected in (self._adverts, self._sealed, self._commitments, self._inputs, self._consents, self._opened):
            collected.clear()

    def result(self) -> WeightedMean:
        """Return the weighted mean of the survivors.

        Raises:
            LocalProtocolError: the sum is not done (our fault).
            RemoteProtocolError: ``bad-sum``: no honest cohort can have made it.
        """
        return quantiser_of(self.plan).decode(self.total())

    def total(self) -> NDArray[np.uint32]:
        """Return the sum modulo 2**bits; uint32 [n_params + 1].

        Raises:
            LocalProtocolError: the sum is not done (our fault).
        """
        if self.step != "done" or self._total is None:
            raise LocalProtocolError(f"a sum that is {self.step} has no result")
        return self._total

    def survivors(self) -> tuple[str, ...]:
        """Return whose vectors are in the sum."""
        return tuple(self.setting.roster.names[index] for index in sorted(self._inputs))

    # -- taking messages

    def _fresh(self, sender: str, taken: Mapping[int, object]) -> int:
        index = self.setting.index_of(sender)
        if index in taken:
            raise RemoteProtocolError(f"{sender} has answered this step", reason="duplicate")
        return index

    def _take_advert(self, sender: str, data: bytes) -> None:
        if sender in self._adverts:
            raise RemoteProtocolError(f"{sender} has answered this step", reason="duplicate")
        if len(self._adverts) >= self.plan.max_cohort:
            raise RemoteProtocolError("the cohort is full", reason="out-of-step")
        advert = unpack(Advert, data, max_bytes=_SMALL_BYTES)
        said = advert_statement(self.plan, sender, advert.mask_key, advert.seal_key)
        verify(self.directory, sender, advert.signature, said)
        self._adverts[sender] = advert

    def _take_shares(self, index: int, data: bytes) -> None:
        shares = unpack(Shares, data, max_bytes=self.setting.spec.k * SEALED_BYTES + _SMALL_BYTES)
        cut(shares.sealed, self.setting.graph.neighbours(index), SEALED_BYTES)
        self._sealed[index] = shares.sealed
        self._commitments[index] = shares.commitment

    def _take_input(self, index: int, data: bytes) -> None:
        if index not in self._commitments:
            raise RemoteProtocolError("a masked vector of a device that did not share", reason="not-shared")
        quantiser = quantiser_of(self.plan)
        n_bytes = quantise.packed_bytes(quantiser.n_values, quantiser.bits)
        message = unpack(MaskedInput, data, max_bytes=n_bytes + _SMALL_BYTES)
        said = self.setting.input_statement(index, self._sharers())
        verify(self.directory, self.setting.roster.names[index], message.signature, said)
        values = quantise.unpack(message.values, n_values=quantiser.n_values, bits=quantiser.bits)
        self._total = values if self._total is None else np.add(self._total, values, out=self._total)
        self._inputs[index] = message.signature

    def _take_consent(self, index: int, data: bytes) -> None:
        message = unpack(Consent, data, max_bytes=_SMALL_BYTES)
        if index not in self._inputs:
            raise RemoteProtocolError("a consent of a device that did not survive", reason="not-survived")
        said = self.setting.consent_statement(index, self._sharers(), self._survivors())
        verify(self.directory, self.setting.roster.names[index], message.signature, said)
        self._consents[index] = message.signature

    def _take_unmask(self, index: int, data: bytes) -> None:
        if index not in self._consents:
            raise RemoteProtocolError("shares of a device that did not consent", reason="not-survived")
        message = unpack(Unmask, data, max_bytes=(self.setting.spec.k + 1) * SHARE_BYTES + _SMALL_BYTES)
        owners = members(message.owners, self.setting.n)
        if not owners <= set(self.setting.graph.holders(index)) & set(self._commitments):
            raise RemoteProtocolError("a share of a device that it holds none of", reason="wrong-shape")
        self._opened[index] = cut(message.shares, sorted(owners), SHARE_BYTES)

    # -- ending steps

    def _close_adverts(self) -> dict[str, bytes]:
        self._enough(len(self._adverts), self.plan.min_cohort)
        names = tuple(sorted(self._adverts))
        digests = b"".join(advert_digest(self.plan, name, self._adverts[name]) for name in names)
        packed = [one.mask_key + one.seal_key + one.signature for one in map(self._adverts.__getitem__, names)]
        setting = Setting(self.plan, Roster(names=names, digests=digests, adverts=packed[0]))  # adverts: no matter here
        rosters = {}
        for index, name in enumerate(names):
            adverts = b"".join(packed[other] for other in setting.graph.neighbours(index))
            rosters[name] = pack(Roster(names=names, digests=digests, adverts=adverts))
        self._setting = setting
        return rosters

    def _close_shares(self) -> dict[str, bytes]:
        self._enough(len(self._commitments), self.setting.spec.min_survivors)
        graph, sharers = self.setting.graph, self._sharers()
        cuts = {i: cut(one, graph.neighbours(i), SEALED_BYTES) for i, one in self._sealed.items()}
        deliveries = {}
        for index in cuts:
            sealed = b"".join(cuts[other][index] for other in graph.neighbours(index) if other in cuts)
            deliveries[index] = pack(Delivery(sharers=sharers, sealed=sealed))
        self._sealed.clear()
        return self._named(deliveries)

    def _close_inputs(self) -> dict[str, bytes]:
        self._enough(len(self._inputs), self.setting.spec.min_survivors)
        survivors, messages = self._survivors(), {}
        for index in self._inputs:
            near = [self._inputs[j] for j in self.setting.graph.neighbours(index) if j in self._inputs]
            messages[index] = pack(Survivors(survivors=survivors, signatures=b"".join(near)))
        return self._named(messages)

    def _close_consents(self) -> dict[str, bytes]:
        self._enough(len(self._consents), self.setting.spec.threshold)
        messages = {}
        for index in self._consents:
            near = [j for j in self.setting.graph.neighbours(index) if j in self._consents]
            signatures = b"".join(self._consents[j] for j in near)
            messages[index] = pack(Agreement(consenters=bitmap(near, self.setting.n), signatures=signatures))
        return self._named(messages)

    def _close_unmasking(self) -> dict[str, bytes]:
        self._enough(len(self._opened), self.setting.spec.threshold)
        if self._total is None:
            raise LocalProtocolError("survivors without a sum")
        quantiser = quantiser_of(self.plan)
        remove_masks(
            self._total,
            self.setting,
            sharers=self._commitments,
            survivors=frozenset(self._inputs),
            mask_keys={i: self._adverts[name].mask_key for i, name in enumerate(self.setting.roster.names)},
            opened=self._opened,
        )
        self._total &= quantiser.mask
        self._opened.clear()  # the sum is all that is left
        return {}

    def _enough(self, n: int, needed: int) -> None:
        if n < needed:
            raise RemoteProtocolError(f"{n} devices answered, {needed} are needed", reason="too-few-devices")

    def _sharers(self) -> bytes:
        return bitmap(self._commitments, self.setting.n)

    def _survivors(self) -> bytes:
        return bitmap(self._inputs, self.setting.n)

    def _named(self, messages: Mapping[int, bytes]) -> dict[str, bytes]:
        return {self.setting.roster.names[index]: data for index, data in messages.items()}

    # -- restarting

    def pack(self) -> bytes:
        """Return the bytes to store durably: they hold no secret that the server should not see."""
        state = Stored(
            plan=self.plan,
            step=self.step,
            abort_reason=self.abort_reason,
            adverts=join_records({name: pack(one) for name, one in self._adverts.items()}),
            roster=pack(self._setting.roster) if self._setting else b"",
            sealed=join_records(self._sealed),
            commitments=join_records(self._commitments),
            inputs=join_records(self._inputs),
            total=b"" if self._total is None else self._total.astype("<u4").tobytes(),
            consents=join_records(self._consents),
            opened=join_records({i: join_records(one) for i, one in self._opened.items()}),
        )
        return cbor.dumps(plain(state))

    @classmethod
    def unpack(cls, data: bytes, *, directory: Mapping[str, VerifyKey]) -> SumServer:
        """Return the stored sum, to go on with.

        Raises:
            MalformedMessageError: these are no bytes of ``pack`` (the disk's fault).
        """
        stored = unpack(Stored, data, max_bytes=STORED_BYTES)
        try:
            return cls._of(stored, directory)
        except ValueError as error:  # a key that is no number or no text, a sum that ends within a value
            raise MalformedMessageError(f"not a stored sum: {type(error).__name__}") from error

    @classmethod
    def _of(cls, stored: Stored, directory: Mapping[str, VerifyKey]) -> SumServer:
        return cls(
            plan=stored.plan,
            directory=directory,
            step=stored.step,
            abort_reason=stored.abort_reason,
            _adverts={name: unpack(Advert, one) for name, one in split_records(stored.adverts).items()},
            _setting=Setting(stored.plan, unpack(Roster, stored.roster)) if stored.roster else None,
            _sealed={int(i): one for i, one in split_records(stored.sealed).items()},
            _commitments={int(i): one for i, one in split_records(stored.commitments).items()},
            _inputs={int(i): one for i, one in split_records(stored.inputs).items()},
            _total=np.frombuffer(stored.total, "<u4").astype(np.uint32) if stored.total else None,
            _consents={int(i): one for i, one in split_records(stored.consents).items()},
            _opened={
                int(i): {int(j): s for j, s in split_records(o).items()}
                for i, o in split_records(stored.opened).items()
            },
        )
