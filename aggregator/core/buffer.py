"""The buffer, the asynchronous twin of a round: who may work, what may still come in, and when it is folded.

    open ── cohort-complete | all-answered | deadline-with-enough ──> closing ── folded ──> folded
     ├───── carried-over ──> abandoned      (its updates wait on in the next buffer, on the same version)
     └───── withdrawn ──> abandoned

A buffer opens on the newest version and has a number as a round has, so on the wire it is one: a device is handed work
of the buffer that is open, at most once, and sends its update when it is done, into whichever buffer is open then. The
update's *staleness* is the number of versions between the two, not counting those that a gate refused, which no device
ever had. With a gate a fold is a *candidate* until it was measured: the next buffer opens beside it on the version that
devices have, takes updates and is not folded before the verdict; a promotion carries them over into a buffer on the new
version. Laws: an update is in at most one buffer and, once its
buffer is ``closing``, in that one for good; an accepted update leaves a buffer only by a fold, into the next buffer, or
because its task's operator withdrew it; nothing older than ``oldest_version`` is taken; one candidate waits at a time,
and beside it work is handed out until the buffer is full, to devices that had none of this version; at most
``concurrency`` devices hold slots, and each for at most ``slot_s``. Does not know about: clocks, storage, adapters.
Memory: O(concurrency) and the devices that wait, which are bounded.

Source: Nguyen et al. 2022, arXiv:2106.06639, Algorithm 1; the bound on staleness as in Huba et al. 2022 (Papaya),
arXiv:2111.04877. Departures: a device works at most once on one version, since the same examples from the same point
teach little that is new; a buffer has a deadline, so that few devices do not wait for many for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from aggregator.core.records import UpdateRecord
    from aggregator.core.rounds import RoundEvent, RoundState
    from protocol.sealing import TaskKey

__all__ = [
    "HEARD_S",
    "BufferProgress",
    "Buffered",
    "Slots",
    "WaitingRoom",
    "WorkOfBuffers",
    "due_buffer_event",
    "oldest_version",
    "staleness_of",
]

T = TypeVar("T")

HEARD_S: Final = 330.0  # a device that waits calls again at least every 300 s; whoever does not has gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffered:
    """An update in a buffer, and the version that it is based on."""

    update: UpdateRecord
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOfBuffers:
    """What the intake rules must know of work that is still out: its rounds, their versions and keys."""

    version_of: Mapping[int, int]  # of each round whose work is still welcome
    key_of: Callable[[int], TaskKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferProgress:
    """How far a buffer is.

    Attributes:
        n_waiting: updates in it.
        size: updates that make a version.
        least: updates that make one at the deadline.
        n_working: devices that hold slots.
        has_candidate: whether the version before waits for its verdict; until then nothing else is folded.
        is_draining: whether its task pauses: nobody is handed work, and whoever has some is waited for.
    """

    state: RoundState
    n_waiting: int
    size: int
    least: int
    n_working: int
    has_candidate: bool = False
    is_draining: bool = False


def due_buffer_event(progress: BufferProgress, *, is_past_deadline: bool) -> RoundEvent | None:
    """Return the event that is due now, or None; a closing buffer is due to be ``folded``."""
    if progress.state != "open":
        return "folded" if progress.state == "closing" else None
    return None if progress.has_candidate else _way_out(progress, is_past_deadline=is_past_deadline)


def _way_out(progress: BufferProgress, *, is_past_deadline: bool) -> RoundEvent | None:
    has_enough = progress.n_waiting >= progress.least
    if progress.is_draining:
        if progress.n_working > 0 and not is_past_deadline:
            return None
        return "all-answered" if has_enough else "withdrawn"
    if progress.n_waiting >= progress.size:
        return "cohort-complete"
    if is_past_deadline:
        return "deadline-with-enough" if has_enough else "carried-over"
    return None


def staleness_of(version: int, *, folded_on: int, rejected: Collection[int] = ()) -> int:
    """Return how many versions lie between an update's own and its buffer's, ``rejected`` ones left out."""
    return folded_on - version - sum(version < one <= folded_on for one in rejected)


def oldest_version(version: int, *, restored: int, max_staleness: int, rejected: Collection[int] = ()) -> int:
    """Return the oldest version on which an update may be based while a buffer on ``version`` is open.

    ``restored`` is the newest version that is no fold: what was trained before an operator went back is not wanted.
    """
    oldest = version - max_staleness
    for one in sorted(rejected, reverse=True):
        if oldest <= one <= version:
            oldest -= 1
    return max(restored, oldest)


class Slots:
    """Who works: at most ``concurrency`` devices, each from its work until its update, or until its time is over."""

    __slots__ = ("_concurrency", "_since_s", "_slot_s")

    def __init__(self, concurrency: int, *, slot_s: float, working: Iterable[str] = (), now_s: float) -> None:
        """Begin with the devices that are ``working``, as the store has it; each has its whole time again."""
        self._concurrency, self._slot_s = concurrency, slot_s
        self._since_s = dict.fromkeys(working, now_s)

    def take(self, device: str, now_s: float) -> bool:
        """Give the device a slot; whoever held one goes on in it. Return whether it has one."""
        if device not in self._since_s and not self.has_room:
            return False
        self._since_s.pop(device, None)
        self._since_s[device] = now_s
        return True

    def give_back(self, device: str) -> None:
        """Free the device's slot, if it held one."""
        self._since_s.pop(device, None)

    def expire(self, now_s: float) -> list[str]:
        """Free the slots whose time is over; return whose they were."""
        gone = [device for device, since_s in self._since_s.items() if now_s - since_s >= self._slot_s]
        for device in gone:
            del self._since_s[device]
        return gone

    def restart(self, now_s: float) -> None:
        """Give everybody the whole time again."""
        self._since_s = dict.fromkeys(self._since_s, now_s)

    @property
    def has_room(self) -> bool:
        """Whether another device may work."""
        return len(self._since_s) < self._concurrency

    @property
    def n_working(self) -> int:
        """How many devices hold slots."""
        return len(self._since_s)


class WaitingRoom(Generic[T]):
    """Devices that offered themselves while no slot was free, first come first served."""

    __slots__ = ("_places", "_said")

    def __init__(self, places: int) -> None:
        """Begin empty, for so many devices."""
        self._places = places
        self._said: dict[str, tuple[float, T]] = {}

    def offer(self, device: str, said: T, now_s: float) -> bool:
        """Let a device wait, or keep its place with what it says now; return whether it waits."""
        if device not in self._said and len(self._said) >= self._places:
            return False
        self._said[device] = (now_s, said)
        return True

    def next(self, now_s: float, may_work: Callable[[str], bool]) -> T | None:
        """Take out who came first of those that still call and ``may_work``; None if nobody is there."""
        for device, (heard_s, said) in list(self._said.items()):
            if now_s - heard_s >= HEARD_S:
                del self._said[device]
            elif may_work(device):
                del self._said[device]
                return said
        return None

    def clear(self) -> None:
        """Send everybody away: a new version is out, for which they call again."""
        self._said.clear()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._said)
