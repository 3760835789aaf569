"""How likely a device is to answer in time, from what it did last: the weight with which it is chosen.

Laws: pure; nobody's weight is 0, so a device that was slow once is tried again (exploration), and one that nothing is
known of counts as quick. Only what the service saw itself goes in: a device that says of itself that it is quick gains
nothing. The cost is stated in docs/aggregator.md: whoever is always slow is seldom heard.

Source: in the spirit of Lai et al. 2021 (Oort), arXiv:2010.06081, section 4.2, whose utility falls for devices beyond
the developer's preferred round duration T. Departure: one step in place of the power (T / t)^alpha, and no statistical
utility, which would take the devices' losses for granted.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Participation", "pace_weight"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """A device's last round: how long its answer took or, without one, for how long the round waited for it."""

    seconds: float
    is_answered: bool


def pace_weight(last: Participation | None, *, within_s: float, exploration: float) -> float:
    """Return 1 for a device that may be expected within ``within_s``, ``exploration`` for one that was slower.

    A round that closed before that without the device's answer says nothing.
    """
    if last is None or last.seconds < within_s or (last.is_answered and last.seconds == within_s):
        return 1.0
    return exploration
